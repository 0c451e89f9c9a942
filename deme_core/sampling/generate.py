"""Images from a denoiser: image k depends on its seed alone, not on the batch it is sampled in."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deme_core.checkpoints import denoiser_shape, load_noise_schedule, schedule_identity
from deme_core.components import Autoencoder, frozen_hashes, is_text_to_image
from deme_core.data.images import to_pixels
from deme_core.denoising import Denoise, single
from deme_core.errors import InputError
from deme_core.parallel import in_order
from deme_core.sampling.conditions import UNCONDITIONAL, Conditions, guided, refuse_text
from deme_core.sampling.schedulers import check_sampler, faint_start, make_scheduler, stock_schedule
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock, image_generators
from deme_core.timesteps import TimestepRanges

Name = Callable[[int], str]
"""t -> what a message calls the model that predicts at this timestep."""
REMEDIES = {
    "float16": "take sampler.dtype=float32 or bfloat16, which hold larger numbers",
    "bfloat16": "take sampler.dtype=float32, or look at the curve of its training",
    "float32": "look at the curve of its training, and at the weights that it was merged with",
}


def unnamed(t: int) -> str:
    """A Name for whoever has but one model."""
    return "the model"


@dataclass(frozen=True)
class Sampler:
    """A protocol of sampling: noise schedule, sampler, shape of x_0 (C, H, W), device, prompts, the way to pixels."""

    noise_schedule: Any
    params: SamplerParams
    shape: tuple[int, int, int]
    device: torch.device
    conditions: Conditions = UNCONDITIONAL
    decode: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    """x_0 -> images in [-1, 1]."""
    frozen: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Hashes of the weights of text encoder and VAE."""

    @classmethod
    def of(cls, pipeline: Path, params: SamplerParams, device: torch.device, prompts: Sequence[str] = ()) -> "Sampler":
        """The protocol of a pipeline directory; image k has the prompt k modulo their number.

        Raises:
            InputError: a text-to-image pipeline without prompts, or prompts or guidance for another one; or a sampler
                that cannot work with its noise schedule.
        """
        latents, shape = is_text_to_image(pipeline), denoiser_shape(pipeline)
        check_sampler(load_noise_schedule(pipeline), params, latents)
        schedule = stock_schedule(load_noise_schedule(pipeline), latents)
        if note := faint_start(schedule, params):
            print(f"warning: {note}", file=sys.stderr)
        if not latents:
            refuse_text(pipeline, prompts, params.guidance)
            return cls(schedule, params, shape, device)
        conditions = Conditions.of_prompts(pipeline, prompts, device)
        return cls(
            schedule, params, shape, device, conditions, Autoencoder(pipeline, device).decode, frozen_hashes(pipeline)
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What the images depend on beside the denoiser and the seeds."""
        return {
            "sampler": asdict(self.params), "noise_schedule": schedule_identity(self.noise_schedule),
            "prompts": self.conditions.sha256, "frozen": dict(self.frozen),
        }  # fmt: skip

    def generate(
        self, denoise: Denoise, block: SeedBlock, first: int, count: int, name: Name = unnamed
    ) -> Iterator[torch.Tensor]:
        """Images `first` to `first + count − 1` of a seed block, in order.

        A U-Net's float results change with the batch size, so that the network always sees the same, full blocks of
        `params.block` images, aligned with the image index; what was not asked for is thrown away. On a CPU as many
        blocks are sampled at a time as torch has threads.

        Yields:
            uint8 [n, C, H, W] on the CPU, n <= params.block.

        Raises:
            InputError: a number on the way to the images is not finite.
        """
        for _, pixels in self._parts(denoise, block, [range(first, first + count)], name):
            yield pixels

    def images(self, denoise: Denoise, block: SeedBlock, first: int, count: int, name: Name = unnamed) -> torch.Tensor:
        """The images of `generate` as one tensor, uint8 [count, C, H, W]."""
        return torch.cat(list(self.generate(denoise, block, first, count, name)))

    def spans(
        self, denoise: Denoise, block: SeedBlock, spans: Iterable[range], name: Name = unnamed
    ) -> Iterator[torch.Tensor]:
        """The images of each span of indices as one tensor; the next span is begun before the last one is complete."""
        for _, parts in groupby(self._parts(denoise, block, spans, name), key=itemgetter(0)):
            yield torch.cat([pixels for _, pixels in parts])

    def _parts(
        self, denoise: Denoise, block: SeedBlock, spans: Iterable[range], name: Name
    ) -> Iterator[tuple[range, torch.Tensor]]:
        size = self.params.block
        wanted = [(span, k) for span in spans for k in range(span.start - span.start % size, span.stop, size)]
        blocks = in_order(partial(self._block, denoise, block, name), [start for _, start in wanted], self.device)
        for (span, start), pixels in zip(wanted, blocks, strict=True):
            yield span, pixels[max(span.start - start, 0) : span.stop - start]

    @torch.inference_mode()
    def _block(self, denoise: Denoise, block: SeedBlock, name: Name, start: int) -> torch.Tensor:
        indices = range(start, start + self.params.block)
        denoise, scheduler, noise, generators = self.begun(denoise, block, indices)
        x, counts = self.denoised(denoise, scheduler, noise, generators)
        images = self.decode(x)
        flags = torch.stack([*counts, images.isfinite().all()])
        pixels = to_pixels(images).cpu()
        which = f"images {start}–{indices[-1]} of the seeds {block.name}"
        self._refuse(flags.tolist(), scheduler.timesteps.tolist(), name, which)
        return pixels

    def begun(
        self, denoise: Denoise, block: SeedBlock, indices: range
    ) -> tuple[Denoise, Any, torch.Tensor, list[torch.Generator]]:
        """What `denoised` takes for these images: a guided denoiser, a fresh scheduler, x_T, a generator an image."""
        scheduler = make_scheduler(self.noise_schedule, self.params)
        generators = image_generators(block, indices)
        noise = torch.stack([torch.randn(self.shape, generator=generator) for generator in generators])
        condition, blank = self.conditions.of(indices), self.conditions.blank(len(indices))
        denoise = guided(denoise, condition, blank, self.params.guidance)
        return denoise, scheduler, noise.to(self.device) * scheduler.init_noise_sigma, generators

    def denoised(
        self, denoise: Denoise, scheduler: Any, x: torch.Tensor, generators: list[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_0 from x_T, and the numbers of steps before the first whose prediction, and whose result, is not finite.

        Both on the device, the numbers as int64 [2]; a result that is not finite is followed by such predictions.
        On a GPU no step waits for the device, but for those of the ddpm sampler, whose noise comes from the CPU.
        """
        dtype = getattr(torch, self.params.dtype)
        drawn = {"generator": generators} if self.params.kind == "ddpm" else {}
        timesteps = scheduler.timesteps  # on the CPU: schedulers and the ensemble read them
        if self.device.type == "cuda":
            timesteps = timesteps.pin_memory()
        good = torch.ones(2, dtype=torch.bool, device=self.device)
        counts = torch.zeros(2, dtype=torch.long, device=self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            for t in timesteps:
                prediction = denoise(x, t).float()
                x = scheduler.step(prediction, t, x, **drawn).prev_sample
                good &= torch.stack([prediction.isfinite().all(), x.isfinite().all()])
                counts += good
        return x, counts

    def _refuse(self, flags: list[int], timesteps: list[int], name: Name, images: str) -> None:
        """Stop at the first thing that is not finite: a step, x_0, what the decoder made of it."""
        good_steps, sound_steps, decoded = flags
        if sound_steps < good_steps:
            raise InputError(
                f"{name(timesteps[sound_steps])}: step {sound_steps + 1} of {len(timesteps)} of the sampler"
                f" (t = {timesteps[sound_steps]}) overflows, though the prediction is finite ({images}); take another"
                f" sampler.kind, a smaller sampler.guidance, or {REMEDIES['float32']}"
            )
        if good_steps < len(timesteps):
            t = timesteps[good_steps]
            raise InputError(
                f"{name(t)}: its prediction at step {good_steps + 1} of {len(timesteps)} (t = {t}) is not finite"
                f" ({images}); {REMEDIES[self.params.dtype]}"
            )
        if not decoded:
            raise InputError(
                f"{name(timesteps[-1])}: the VAE turns finite latents into pictures that are not finite ({images}); its"
                " weights are broken, so fetch the pipeline again"
            )


def refuse_one_colour(pixels: torch.Tensor, model: str) -> None:
    """Refuse images that are all one and the same colour: they would be measured as if they were a result.

    Args:
        pixels: uint8 [n, C, H, W]; of a single image nothing is said, it may be one.
        model: what a message calls the model that made them.
    """
    if len(pixels) > 1 and bool((pixels == pixels[:1, :, :1, :1]).all()):
        raise InputError(
            f"{model}: all {len(pixels)} images are of one colour, {pixels[0, :, 0, 0].tolist()}, in every pixel; take"
            f" another sampler.kind or sampler.spacing, or {REMEDIES['float32']}"
        )


def ensemble(experts: list[nn.Module], ranges: TimestepRanges, device: torch.device) -> Denoise:
    """Timestep-wise ensemble: step t goes to the expert of its range (Eq. 7); the paper's "before merge"."""
    calls = [single(expert, device) for expert in experts]
    return lambda x, t, **condition: calls[ranges.expert(int(t)) - 1](x, t, **condition)
