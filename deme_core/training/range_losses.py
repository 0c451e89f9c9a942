"""The denoising loss of a model on every timestep range, image by image, over images that no training has seen."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deme_core.checkpoints import load_denoiser
from deme_core.components import Condition
from deme_core.data.examples import Examples, batches
from deme_core.denoising import Denoise, denoising_loss, regression_target, single
from deme_core.errors import InputError
from deme_core.parallel import in_order
from deme_core.params import check
from deme_core.timesteps import TimestepRanges

SEED = 0  # of the noise and the timesteps, the same for every model


@dataclass(frozen=True, kw_only=True)
class LossMatrixParams:
    """Section `loss_matrix`."""

    draws: int
    """Timesteps and noises for every held-out image and range."""

    def __post_init__(self) -> None:
        check(self.draws >= 1, "loss_matrix.draws", self.draws, "must be at least 1")


class Batch(NamedTuple):
    """What a denoiser is asked of some images (`rows`) on range i, and what it should find."""

    i: int
    rows: torch.Tensor
    x0: torch.Tensor
    condition: Condition
    noise: torch.Tensor
    t: torch.Tensor


def image_losses(
    denoise: Denoise,
    noise_schedule: Any,
    examples: Examples,
    ranges: TimestepRanges,
    draws: int,
    device: torch.device,
    name: str = "the model",
    which: Sequence[int] = (),
) -> np.ndarray:
    """Denoising loss (Eq. 3) of each image on each range, a mean over `draws` timesteps and noises.

    These are the same for every model, so that losses are paired image by image.

    Args:
        examples: which no training has seen.
        name: what a message calls the model.
        which: ranges that are measured, counted from 1, rising; none: all.

    Returns:
        float64 [N, n], or a row for each of `which`.

    Raises:
        InputError: the loss of a range is not finite.
    """

    @torch.inference_mode()
    def losses(batch: Batch) -> tuple[int, np.ndarray, np.ndarray]:
        x0, eps, t = (value.to(device) for value in (batch.x0, batch.noise, batch.t))
        condition = {key: value.to(device) for key, value in batch.condition.items()}
        prediction = denoise(noise_schedule.add_noise(x0, eps, t), t, **condition)
        found = denoising_loss(prediction, regression_target(noise_schedule, x0, eps, t))
        return batch.i, batch.rows.numpy(), found.double().cpu().numpy()

    which = which or range(1, ranges.N + 1)
    sums = {i: np.zeros(len(examples)) for i in which}
    for i, rows, found in in_order(losses, _batches(examples, ranges, draws, which), device):
        np.add.at(sums[i], rows, found)
    for i, summed in sums.items():
        if not np.isfinite(summed).all():
            raise InputError(
                f"{name}: its loss on range {i}, timesteps [{', '.join(map(str, ranges.range(i)))}), is not finite;"
                " look at the curve of its training"
            )
    return np.stack(list(sums.values())) / draws


def model_losses(
    models: Mapping[str, Path],
    noise_schedule: Any,
    examples: Examples,
    ranges: TimestepRanges,
    draws: int,
    device: torch.device,
    which: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """`image_losses` of each model, name -> folder of its denoiser; one is in memory at a time."""
    return {
        name: image_losses(
            single(load_denoiser(folder), device), noise_schedule, examples, ranges, draws, device, str(folder), which
        )
        for name, folder in models.items()
    }


def range_losses(losses: np.ndarray) -> list[float]:
    """Mean loss on each range of `image_losses`; NaN where there is no image (a run that holds none out)."""
    return [float(of_range.mean()) if of_range.size else math.nan for of_range in losses]


def _batches(examples: Examples, ranges: TimestepRanges, draws: int, which: Sequence[int]) -> Iterator[Batch]:
    """Range by range; draw k of a range has timesteps from its k-th part of equal length, in the middle on average."""
    index = torch.arange(len(examples)).repeat(draws)
    for i in which:
        low, high = ranges.range(i)
        generator = torch.Generator().manual_seed(SEED + i)
        position = torch.rand(len(index), generator=generator) + torch.arange(draws).repeat_interleave(len(examples))
        t = (low + position * (high - low) / draws).long().clamp(max=high - 1)
        noise = torch.randn(len(index), *examples.shape, generator=generator)
        for part in batches(len(index), examples.shape):
            x0, condition = examples.draw(index[part], generator)
            yield Batch(i, index[part], x0, condition, noise[part], t[part])
