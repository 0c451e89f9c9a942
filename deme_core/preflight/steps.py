"""One step of a training and one network call: how long they take, and what memory they keep."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from deme_core.components import Condition
from deme_core.errors import InputError
from deme_core.preflight.model import Model
from deme_core.training.settings import TrainingParams

LONG_ENOUGH = 1.0  # seconds of a measurement
Inputs = tuple[torch.Tensor, torch.Tensor, Condition]  # of a denoiser: x_t, t, condition


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
    x, t = torch.randn(n, *model.shape, device=model.device), torch.zeros(n, dtype=torch.long, device=model.device)
    return x, t, {key: value.expand(n, *value.shape[1:]) for key, value in model.condition.items()}


def train_step(model: Model, n: int, training: TrainingParams) -> None:
    """Forward and backward pass of `n` images, the teacher's pass before them; no weight changes."""
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


def activation_bytes(model: Model, training: TrainingParams) -> int:
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
    parameter_storages = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameter_storages:
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
def network_call(model: Model, n: int, dtype: torch.dtype) -> None:
    """One call of the denoiser on `n` images, as in sampling."""
    x, t, condition = _inputs(model, n)
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        model.denoiser(x, t, **condition)
