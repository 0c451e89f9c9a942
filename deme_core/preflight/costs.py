"""What a run will cost: images, network calls; of a model or its architecture also time, memory and disk."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from deme_core.components import Condition
from deme_core.data.encode import KEPT
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.fit import META
from deme_core.preflight.model import Model, read_model
from deme_core.preflight.public_models import PUBLIC, Architecture
from deme_core.sampling.sample import cost
from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.kinds import searched
from deme_core.search.lines import LINES
from deme_core.search.settings import SearchParams
from deme_core.training.learning_rate import most_steps
from deme_core.training.settings import TrainingParams

TIMED = PUBLIC["google/ddpm-cifar10-32"]
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
        asked = [(kind.split(), 1 if kind in LINES else N) for kind in kinds]
        searches = [(searched(lines, search, [n] * len(lines))[0], 1 + len(lines)) for lines, n in asked]
        images = sum(own.budget + (own.finalists + anchors) * own.final_images for own, anchors in searches)
        return cls(
            trained=steps * training.batch_size * training.gradient_accumulation,
            searched=images,
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
    passes: int
    """Network calls that an image of a training step costs as much as."""
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
    encoding: float = 0.0
    """Seconds an image through the encoder of the VAE; 0 without one."""
    decoding: float = 0.0
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
    """Time a training step and a sampling call of the model in the folder `source`."""
    return _measure(read_model(source, best_device()), training, sampler)


def estimate(architecture: Architecture, training: TrainingParams, sampler: SamplerParams) -> Measured:
    """The same of an architecture alone, with random weights, or without any.

    A GPU times them like those of a model. On a CPU a large network would take minutes and many gigabytes, above all in
    half precision: there all times follow by FLOPs from a call of the small network TIMED in float32, and memory is
    counted on tensors without content.
    """
    if best_device().type == "cuda":
        return _measure(architecture.model(best_device()), training, sampler)
    whole, small = architecture.model(META), TIMED.model()
    macs = {"sampling": (calls := _cost(whole)["macs_per_step"]), "training": calls * passes(training)}
    if whole.vae is not None:
        vae, x, z = whole.vae.vae, *(torch.zeros(1, *shape, device=META) for shape in (whole.pixels, whole.shape))
        macs |= {"encoding": _macs(lambda: vae.encode(x)), "decoding": _macs(lambda: vae.decode(z))}
    seconds = timed(lambda n: _call(small, n, torch.float32), sampler.block).seconds
    small.denoiser.to(META)
    seconds /= _cost(small)["macs_per_step"]
    with FakeTensorMode():
        plain = replace(architecture, vae=None).model()
        activations = _activations(_prepared(plain, training), training)
    name = f"{_cpu()}, of a small U-Net in float32, at {2e-9 / seconds:.3g} GFLOP/s"
    return _measured(whole, training, name, activations, {key: value * seconds for key, value in macs.items()})


def passes(training: TrainingParams) -> int:
    """What an image of a training step costs, in network calls: a backward pass costs two."""
    return 3 + (training.consistency > 0) + training.gradient_checkpointing


def _cpu() -> str:
    return f"CPU, {torch.get_num_threads()} thread(s)"


def _measure(model: Model, training: TrainingParams, sampler: SamplerParams) -> Measured:
    """Run a model, which lies on the device meta afterwards.

    Batches grow until a measurement is long enough, up to those of the params: a large network is not run on hundreds
    of images to tell its speed.
    """
    cuda = model.device.type == "cuda"
    weights = FLOAT * sum(parameter.numel() for parameter in _prepared(model, training).denoiser.parameters())
    step = timed(lambda n: _train(model, n, training), training.batch_size)
    held = (step.peak - weights) * training.batch_size // step.batch  # the gradients are in `state`
    activations = held if cuda else _activations(model, training)
    calls = timed(lambda n: _call(model, n, getattr(torch, sampler.dtype)), sampler.block).seconds
    times = {"training": step.seconds, "sampling": calls}
    if (vae := model.vae) is not None:
        images, latents = torch.zeros(sampler.block, *model.pixels), torch.zeros(sampler.block, *model.shape)
        times["encoding"] = timed(lambda n: vae.moments(images[:n]), sampler.block).seconds
        times["decoding"] = timed(lambda n: vae.decode(latents[:n]), sampler.block).seconds
    model.denoiser.to(META)
    name = torch.cuda.get_device_name() if cuda else _cpu()
    return _measured(model, training, name, max(0, activations), times)


def _measured(
    model: Model, training: TrainingParams, device: str, activations: int, seconds: Mapping[str, float]
) -> Measured:
    """What is counted of a model on the device meta, beside what was measured."""
    figures, teacher = _cost(model), training.consistency > 0
    values = 2 + (not training.ema_offload)  # weights and gradients, and their EMA
    more = MOMENTS[training.optimizer] + teacher * training.dtype.itemsize
    return Measured(
        device=device,
        parameters=figures["parameters"],
        macs=figures["macs_per_step"],
        passes=passes(training),
        pixels=prod(model.pixels),
        encoded=sum(KEPT.itemsize * (value.numel() + 2 * prod(model.shape)) for value in model.condition.values()),
        state=(FLOAT * values + more) * figures["parameters"],
        activations=activations,
        **seconds,
    )


def _cost(model: Model) -> dict[str, Any]:
    """Counted on the device meta: of a CPU's fused attention the counter of FLOPs knows nothing."""
    return cost([model.denoiser], model.shape, {key: value.to(META) for key, value in model.condition.items()})


def _macs(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return counter.get_total_flops() // 2


def _prepared(model: Model, training: TrainingParams) -> Model:
    if training.gradient_checkpointing:
        model.denoiser.train().enable_gradient_checkpointing()
    return model


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


def _inputs(model: Model, n: int) -> Inputs:
    own = {key: value.expand(n, *value.shape[1:]) for key, value in model.condition.items()}
    return torch.randn(n, *model.shape, device=model.device), torch.zeros(n, dtype=torch.long, device=model.device), own


def _train(model: Model, n: int, training: TrainingParams) -> None:
    (x, t, condition), dtype = _inputs(model, n), training.dtype
    try:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            if training.consistency > 0:
                with torch.no_grad():
                    model.denoiser(x, t, **condition)
            loss = model.denoiser(x, t, **condition).sample.float().square().mean()
        loss.backward()
    finally:  # also where memory ended amid the backward pass
        model.denoiser.zero_grad()


def _activations(model: Model, training: TrainingParams) -> int:
    """Bytes that the forward pass of a batch keeps: some for each image, and autocast's copies of weights but once."""
    one, two = (_kept(model, n, training) for n in (1, 2))
    return one + (training.batch_size - 1) * (two - one)


def _kept(model: Model, n: int, training: TrainingParams) -> int:
    """Bytes that a forward pass of `n` images keeps for its backward pass, the weights themselves left out.

    With gradient checkpointing a pass keeps little, but the backward pass makes what one block keeps anew: the
    largest is counted, as it is without.
    """
    (x, t, condition), dtype, unet = _inputs(model, n), training.dtype, model.denoiser
    # The address of a storage itself, not that of its content: without content that is 0 everywhere.
    own = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def forward() -> int:
        kept.clear()
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32),
        ):
            loss = unet(x, t, **condition).sample.float().square().mean()
        total = sum(kept.values())
        del loss  # until here it kept all of them, so that no two had one address
        return total

    total = forward()
    if not training.gradient_checkpointing:
        return total
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
def _call(model: Model, n: int, dtype: torch.dtype) -> None:
    x, t, condition = _inputs(model, n)
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        model.denoiser(x, t, **condition)
