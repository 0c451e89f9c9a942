"""The held-out denoising loss of every model on every timestep range: does each expert win its own range?"""

from typing import Any

import torch

from deme_core.data.images import to_model
from deme_core.sampling.generate import Denoise
from deme_core.timesteps import TimestepRanges
from deme_core.training.losses import denoising_loss, regression_target

BATCH = 500
SEED = 0  # of the noise and the timesteps, the same for every model


@torch.inference_mode()
def range_losses(
    denoise: Denoise,
    noise_schedule: Any,
    pixels: torch.Tensor,
    ranges: TimestepRanges,
    draws: int,
    device: torch.device,
) -> list[float]:
    """Mean denoising loss (Eq. 3) on each range, over `draws` timesteps and noises for every image.

    Timesteps are stratified: draw k of a range comes from its k-th part of equal length, in the middle on average.

    Args:
        pixels: uint8 [n, C, H, W], which no training has seen.

    Returns:
        One loss a range; NaN where there is no image (a run that holds none out).
    """
    x0 = to_model(pixels).repeat(draws, 1, 1, 1)
    losses = []
    for i in range(1, ranges.N + 1):
        low, high = ranges.range(i)
        generator = torch.Generator().manual_seed(SEED + i)
        position = torch.rand(len(x0), generator=generator) + torch.arange(draws).repeat_interleave(len(pixels))
        t = (low + position * (high - low) / draws).long().clamp(max=high - 1)
        noise = torch.randn(x0.shape, generator=generator)
        total = 0.0
        for start in range(0, len(x0), BATCH):
            part = slice(start, start + BATCH)
            clean, eps, when = x0[part].to(device), noise[part].to(device), t[part].to(device)
            prediction = denoise(noise_schedule.add_noise(clean, eps, when), when)
            target = regression_target(noise_schedule, clean, eps, when)
            total += float(denoising_loss(prediction, target).sum())
        losses.append(total / len(x0) if len(x0) else float("nan"))
    return losses
