"""What a run will cost of time, memory and disk, by the speed of its model, or of an architecture alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from deme_core.data.encode import KEPT
from deme_core.device import best_device
from deme_core.fit import META
from deme_core.preflight.counts import Counts
from deme_core.preflight.model import Model, read_model
from deme_core.preflight.public_models import PUBLIC, Architecture
from deme_core.preflight.steps import activation_bytes, network_call, timed, train_step
from deme_core.sampling.sample import cost
from deme_core.sampling.settings import SamplerParams
from deme_core.training.settings import TrainingParams

TIMED = PUBLIC["google/ddpm-cifar10-32"]
FLOAT = 4  # bytes
MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2}  # bytes a weight


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
    model_states: int
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
        return self.model_states + max(self.activations, FLOAT * self.parameters)

    def disk(self, counts: Counts, null: int, models: int, images: int) -> int:
        """Bytes of a run, at most.

        A finetune leaves a denoiser, a task vector and a resume state of four sets of weights, a probe all but the
        vector.

        Args:
            null: vectors of random draws.
            models: that are sampled, each taken to have weights of its own.
            images: of each.
        """
        sets = (1 + 1 + 4) * counts.finetunes + (1 + 4) * counts.probes + null + models
        return self.parameters * FLOAT * sets + models * images * self.pixels


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
    seconds = timed(lambda n: network_call(small, n, torch.float32), sampler.block).seconds
    small.denoiser.to(META)
    seconds /= _cost(small)["macs_per_step"]
    with FakeTensorMode():
        plain = replace(architecture, vae=None).model()
        activations = activation_bytes(_prepared(plain, training), training)
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
    step = timed(lambda n: train_step(model, n, training), training.batch_size)
    held = (step.peak - weights) * training.batch_size // step.batch  # the gradients are in `model_states`
    activations = held if cuda else activation_bytes(model, training)
    calls = timed(lambda n: network_call(model, n, getattr(torch, sampler.dtype)), sampler.block).seconds
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
        model_states=(FLOAT * values + more) * figures["parameters"],
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
