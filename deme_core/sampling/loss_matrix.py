"""The held-out denoising loss of every model on every timestep range: does each expert win its own range?"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from deme_core.components import Condition
from deme_core.data.examples import Examples, batches
from deme_core.errors import InputError
from deme_core.parallel import in_order
from deme_core.sampling.generate import Denoise
from deme_core.timesteps import TimestepRanges
from deme_core.training.losses import denoising_loss, regression_target

SEED = 0  # of the noise and the timesteps, the same for every model


class Batch(NamedTuple):
    """What a denoiser is asked on range i, and what it should find."""

    i: int
    x0: torch.Tensor
    condition: Condition
    noise: torch.Tensor
    t: torch.Tensor


def range_losses(
    denoise: Denoise,
    noise_schedule: Any,
    examples: Examples,
    ranges: TimestepRanges,
    draws: int,
    device: torch.device,
    name: str = "the model",
) -> list[float]:
    """Mean denoising loss (Eq. 3) on each range, over `draws` timesteps and noises for every image.

    Args:
        examples: which no training has seen.
        name: what a message calls the model.

    Returns:
        One loss a range; NaN where there is no image (a run that holds none out).

    Raises:
        InputError: the loss of a range is not finite.
    """

    @torch.inference_mode()
    def total(batch: Batch) -> tuple[int, float]:
        x0, eps, t = (value.to(device) for value in (batch.x0, batch.noise, batch.t))
        condition = {key: value.to(device) for key, value in batch.condition.items()}
        prediction = denoise(noise_schedule.add_noise(x0, eps, t), t, **condition)
        return batch.i, float(denoising_loss(prediction, regression_target(noise_schedule, x0, eps, t)).sum())

    totals = [0.0] * ranges.N
    for i, loss in in_order(total, _batches(examples, ranges, draws), device):
        totals[i - 1] += loss
    for i, loss in enumerate(totals, 1):
        if not math.isfinite(loss):
            raise InputError(
                f"{name}: its loss on range {i}, timesteps [{', '.join(map(str, ranges.range(i)))}), is not finite;"
                " look at the curve of its training"
            )
    count = len(examples) * draws
    return [loss / count if count else math.nan for loss in totals]


def _batches(examples: Examples, ranges: TimestepRanges, draws: int) -> Iterator[Batch]:
    """Range by range; draw k of a range has timesteps from its k-th part of equal length, in the middle on average."""
    index = torch.arange(len(examples)).repeat(draws)
    for i in range(1, ranges.N + 1):
        low, high = ranges.range(i)
        generator = torch.Generator().manual_seed(SEED + i)
        position = torch.rand(len(index), generator=generator) + torch.arange(draws).repeat_interleave(len(examples))
        t = (low + position * (high - low) / draws).long().clamp(max=high - 1)
        noise = torch.randn(len(index), *examples.shape, generator=generator)
        for part in batches(len(index), examples.shape):
            x0, condition = examples.draw(index[part], generator)
            yield Batch(i, x0, condition, noise[part], t[part])
