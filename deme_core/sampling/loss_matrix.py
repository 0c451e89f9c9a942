"""The held-out denoising loss of every model on every timestep range: does each expert win its own range?"""

from typing import Any

import torch

from deme_core.data.examples import Examples, batches
from deme_core.sampling.generate import Denoise
from deme_core.timesteps import TimestepRanges
from deme_core.training.losses import denoising_loss, regression_target

SEED = 0  # of the noise and the timesteps, the same for every model


@torch.inference_mode()
def range_losses(
    denoise: Denoise,
    noise_schedule: Any,
    examples: Examples,
    ranges: TimestepRanges,
    draws: int,
    device: torch.device,
) -> list[float]:
    """Mean denoising loss (Eq. 3) on each range, over `draws` timesteps and noises for every image.

    Timesteps are stratified: draw k of a range comes from its k-th part of equal length, in the middle on average.

    Args:
        examples: which no training has seen.

    Returns:
        One loss a range; NaN where there is no image (a run that holds none out).
    """
    index = torch.arange(len(examples)).repeat(draws)
    losses = []
    for i in range(1, ranges.N + 1):
        low, high = ranges.range(i)
        generator = torch.Generator().manual_seed(SEED + i)
        position = torch.rand(len(index), generator=generator) + torch.arange(draws).repeat_interleave(len(examples))
        t = (low + position * (high - low) / draws).long().clamp(max=high - 1)
        noise = torch.randn(len(index), *examples.shape, generator=generator)
        total = 0.0
        for part in batches(len(index), examples.shape):
            x0, condition = examples.draw(index[part], generator)
            x0, condition = x0.to(device), {key: value.to(device) for key, value in condition.items()}
            eps, when = noise[part].to(device), t[part].to(device)
            prediction = denoise(noise_schedule.add_noise(x0, eps, when), when, **condition)
            target = regression_target(noise_schedule, x0, eps, when)
            total += float(denoising_loss(prediction, target).sum())
        losses.append(total / len(index) if len(index) else float("nan"))
    return losses
