"""Images from a denoiser: image k depends on its seed alone, not on the batch it is sampled in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deme_core.checkpoints import denoiser_shape, load_noise_schedule, schedule_identity
from deme_core.components import Autoencoder, frozen_hashes, is_text_to_image
from deme_core.data.images import to_pixels
from deme_core.sampling.conditions import UNCONDITIONAL, Conditions, Denoise, guided, refuse_text
from deme_core.sampling.schedulers import make_scheduler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock, image_generators
from deme_core.timesteps import TimestepRanges


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
    frozen: Mapping[str, list[str]] = field(default_factory=dict)
    """Hashes of the weights of text encoder and VAE."""

    @classmethod
    def of(cls, pipeline: Path, params: SamplerParams, device: torch.device, prompts: Sequence[str] = ()) -> "Sampler":
        """The protocol of a pipeline directory; image k has the prompt k modulo their number.

        Raises:
            InputError: a text-to-image pipeline without prompts, or prompts or guidance for another one.
        """
        shape, schedule = denoiser_shape(pipeline), load_noise_schedule(pipeline)
        if not is_text_to_image(pipeline):
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

    def generate(self, denoise: Denoise, block: SeedBlock, first: int, count: int) -> Iterator[torch.Tensor]:
        """Images `first` to `first + count − 1` of a seed block, in order.

        A U-Net's float results change with the batch size, so that the network always sees the same, full blocks of
        `params.block` images, aligned with the image index; what was not asked for is thrown away.

        Yields:
            uint8 [n, C, H, W] on the CPU, n <= params.block.
        """
        size = self.params.block
        for start in range(first - first % size, first + count, size):
            pixels = self._block(denoise, block, start)
            yield pixels[max(first - start, 0) : first + count - start]

    def images(self, denoise: Denoise, block: SeedBlock, first: int, count: int) -> torch.Tensor:
        """The images of `generate` as one tensor, uint8 [count, C, H, W]."""
        return torch.cat(list(self.generate(denoise, block, first, count)))

    @torch.inference_mode()
    def _block(self, denoise: Denoise, block: SeedBlock, start: int) -> torch.Tensor:
        scheduler = make_scheduler(self.noise_schedule, self.params)
        generators = image_generators(block, range(start, start + self.params.block))
        noise = [torch.randn(self.shape, generator=generator) for generator in generators]
        x = torch.stack(noise).to(self.device) * scheduler.init_noise_sigma
        dtype = getattr(torch, self.params.dtype)
        condition = self.conditions.of(range(start, start + self.params.block))
        denoise = guided(denoise, condition, self.conditions.blank(self.params.block), self.params.guidance)
        drawn = {"generator": generators} if self.params.kind == "ddpm" else {}
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            for t in scheduler.timesteps:
                prediction = denoise(x, t).float()
                x = scheduler.step(prediction, t, x, **drawn).prev_sample
        return to_pixels(self.decode(x)).cpu()


def single(model: nn.Module, device: torch.device) -> Denoise:
    """One denoiser for all timesteps."""
    model = model.to(device).eval()
    return lambda x, t, **condition: model(x, t.to(x.device), **condition).sample


def ensemble(experts: list[nn.Module], ranges: TimestepRanges, device: torch.device) -> Denoise:
    """Timestep-wise ensemble: step t goes to the expert of its range (Eq. 7); the paper's "before merge"."""
    calls = [single(expert, device) for expert in experts]
    return lambda x, t, **condition: calls[ranges.expert(int(t)) - 1](x, t, **condition)
