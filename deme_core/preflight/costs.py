"""What a run will cost: images, network calls; with the model at hand also time, memory and disk, as measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from deme_core.checkpoints import denoiser_dir, denoiser_shape, load_denoiser
from deme_core.components import Autoencoder, Condition, blank_condition, is_text_to_image, pixel_shape
from deme_core.data.encode import KEPT
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline
from deme_core.sampling.sample import cost
from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.kinds import KINDS
from deme_core.search.lines import LINES
from deme_core.search.settings import SearchParams
from deme_core.training.learning_rate import most_steps
from deme_core.training.settings import TrainingParams

LONG_ENOUGH = 1.0  # seconds of a measurement
FLOAT = 4  # bytes
MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2}  # bytes a weight
Inputs = tuple[torch.Tensor, torch.Tensor, Condition]  # of a denoiser: x_t, t, condition


@dataclass(frozen=True)
class Counts:
    """What the params alone say."""

    trained: int
    """Images through all trainings and probes of a rate, at most, a forward and a backward pass each."""
    searched: int
    """Images that the searches sample, at most."""
    sampled: int
    """Images that are sampled to be measured or trained on, those of prompt sets included as far as they are known."""
    calls: int
    """Network calls an image."""

    @classmethod
    def of_own(cls, training: TrainingParams, sampler: SamplerParams, own: OwnParams) -> "Counts":
        """Of a run without data, which ends with merge_away."""
        batch = training.batch_size * training.gradient_accumulation
        return cls(own.ranges * most_steps(training) * batch, searched=0, sampled=own.whole, calls=sampler.calls)

    @classmethod
    def of(
        cls, N: int, dag: dict[str, Any], training: TrainingParams, search: SearchParams, sampler: SamplerParams,
        sample: SampleParams, own: OwnParams, prompted: int = 0,
    ) -> "Counts":  # fmt: skip
        """Of a run of N ranges whose stages the section `dag` names; `prompted` images of prompt sets a model."""
        steps = ((1 + len(dag["finetunes"])) * N + len(dag["own"]) * own.ranges) * most_steps(training)
        kinds = ["deme", *(row["kind"] for row in dag["searches"].values())]
        searches = [KINDS[kind](search, 1 if kind in LINES else N) for kind in kinds]
        searched = sum(params.budget + (params.finalists + 2) * params.final_images for params in searches)
        return cls(
            trained=steps * training.batch_size * training.gradient_accumulation,
            searched=searched,
            sampled=len(dag["sampled"]) * (sample.images + prompted) + len(dag["own"]) * (own.whole),
            calls=sampler.calls,
        )


@dataclass(frozen=True)
class Measured:
    """What the model itself says, on this machine."""

    device: str
    parameters: int
    macs: int
    """Multiply-accumulates of one network call an image."""
    pixels: int
    """Bytes of an image, a byte a value."""
    encoded: int
    """Bytes on disk of an image's latents and of one caption's embedding; 0 where pixels are trained on."""
    state: int
    """Bytes of a training in the device's memory but for activations: weights, gradients, moments, EMA, teacher."""
    activations: int
    """Bytes that a whole batch takes in the forward and backward pass: as measured on a GPU, counted on a CPU."""
    training: float
    """Seconds an image of a training step, the teacher's pass included."""
    sampling: float
    """Seconds an image of one network call."""
    encoding: float
    """Seconds an image through the encoder of the VAE; 0 without one."""
    decoding: float
    """Seconds an image through its decoder; 0 without one."""

    def hours(self, counts: Counts) -> dict[str, float]:
        """Stage -> hours on one device like this one."""
        image = (self.sampling * counts.calls + self.decoding) / 3600
        return {
            "training": self.training * counts.trained / 3600,
            "search, at most": image * counts.searched,
            "sampling": image * counts.sampled,
        }

    @property
    def memory(self) -> int:
        """Bytes of a training at its peak: in the backward pass, or where optimizer or EMA copy all weights."""
        return self.state + max(self.activations, FLOAT * self.parameters)

    def disk(self, trained: int, draws: int, models: int, images: int) -> int:
        """Bytes of a run, at most: finetunes with vectors and resume states, vectors of the null, models, samples."""
        weights = self.parameters * FLOAT
        return weights * (trained * (1 + 1 + 4 + draws) + models) + models * images * self.pixels


def measure(source: Path, training: TrainingParams, sampler: SamplerParams) -> Measured:
    """Time a training step and a sampling call of the model in the folder `source`.

    Batches grow until a measurement is long enough, up to those of the params: a large network is not run on hundreds
    of images to tell its speed.
    """
    device = best_device()
    with TemporaryDirectory() as folder:
        pipeline = Path(folder) / "pipeline"
        import_pipeline(source, pipeline)
        model: Any = load_denoiser(denoiser_dir(pipeline))
        shape = denoiser_shape(pipeline)
        condition, pixels = blank_condition(pipeline, 1, torch.device("cpu")), pixel_shape(pipeline, shape)
        vae = Autoencoder(pipeline, device) if is_text_to_image(pipeline) else None
    figures = cost([model], shape, condition)
    model = model.to(device)
    if training.gradient_checkpointing:
        model.train().enable_gradient_checkpointing()

    def inputs(n: int) -> Inputs:
        own = {key: value.to(device).expand(n, *value.shape[1:]) for key, value in condition.items()}
        return torch.randn(n, *shape, device=device), torch.zeros(n, dtype=torch.long, device=device), own

    teacher, weights = training.consistency > 0, FLOAT * figures["parameters"]
    step = timed(lambda n: _train(model, inputs(n), training.dtype, teacher), training.batch_size)
    if device.type == "cuda":
        activations = (step.peak - weights) * training.batch_size // step.batch  # the gradients are in `state`
    else:
        activations = _kept(model, inputs(1), training.dtype, training.gradient_checkpointing) * training.batch_size
    calls = timed(lambda n: _call(model, inputs(n), getattr(torch, sampler.dtype)), sampler.block).seconds
    encoding = decoding = 0.0
    if vae is not None:
        images, latents = torch.zeros(sampler.block, *pixels), torch.zeros(sampler.block, *shape)
        encoding = timed(lambda n: vae.moments(images[:n]), sampler.block).seconds
        decoding = timed(lambda n: vae.decode(latents[:n]), sampler.block).seconds
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return Measured(
        device=name,
        parameters=figures["parameters"],
        macs=figures["macs_per_step"],
        pixels=prod(pixels),
        encoded=sum(KEPT.itemsize * (value.numel() + 2 * prod(shape)) for value in condition.values()),
        state=weights * (2 + (not training.ema_offload))
        + (MOMENTS[training.optimizer] + teacher * training.dtype.itemsize) * figures["parameters"],
        activations=max(0, activations),
        training=step.seconds,
        sampling=calls,
        encoding=encoding,
        decoding=decoding,
    )


@dataclass(frozen=True)
class Timed:
    """The largest batch that is needed for a measurement and fits."""

    seconds: float
    """An image."""
    batch: int
    peak: int
    """Bytes of a GPU's memory that this batch took beside what stays; 0 on a CPU."""


def timed(step: Callable[[int], object], most: int) -> Timed:
    """Time `step(n)` for n = 1, 2, 4 … up to `most`, until a measurement is long enough or memory ends.

    Raises:
        InputError: not even one image fits.
    """
    n, found = 1, None
    cuda = torch.cuda.is_available()
    while True:
        try:
            if found is None:
                step(1)  # the first pass is slow: allocations, kernels
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            step(n)
        except torch.OutOfMemoryError:  # the batch of the params is larger than this GPU: told with what fits
            if found is None:
                raise InputError("one image is more than this GPU holds; take a GPU with more memory") from None
            return found
        if cuda:
            torch.cuda.synchronize()
        passed = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated() if cuda else 0
        found = Timed(passed / n, n, peak)
        if n == most or (passed > LONG_ENOUGH and not cuda):
            return found
        n = min(2 * n, most)


def _train(model: nn.Module, inputs: Inputs, dtype: torch.dtype, teacher: bool) -> None:
    x, t, condition = inputs
    try:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            if teacher:
                with torch.no_grad():
                    model(x, t, **condition)
            loss = model(x, t, **condition).sample.float().square().mean()
        loss.backward()
    finally:  # also where memory ended amid the backward pass
        model.zero_grad()


def _kept(model: nn.Module, inputs: Inputs, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes that a forward pass keeps for its backward pass, the weights themselves left out.

    With gradient checkpointing a pass keeps little, but the backward pass makes what one block keeps anew: the
    largest is counted, as it is without.
    """
    x, t, condition = inputs
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forward() -> int:
        kept.clear()
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32),
        ):
            loss = model(x, t, **condition).sample.float().square().mean()
        total = sum(kept.values())
        del loss  # until here it kept all of them, so that no two had one address
        return total

    total = forward()
    if not checkpointing:
        return total
    unet: Any = model
    unet.disable_gradient_checkpointing()
    blocks, before = [0], [0]
    hooks = [
        hook
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
        for hook in (
            block.register_forward_pre_hook(lambda *_: before.append(sum(kept.values()))),
            block.register_forward_hook(lambda *_: blocks.append(sum(kept.values()) - before[-1])),
        )
    ]
    forward()
    for hook in hooks:
        hook.remove()
    unet.enable_gradient_checkpointing()
    return total + max(blocks)


@torch.inference_mode()
def _call(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> None:
    x, t, condition = inputs
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        model(x, t, **condition)
