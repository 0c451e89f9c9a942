"""What a denoiser is asked, and the losses of DeMe (Eq. 2-5): how far it is from the truth, and from what it was."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Denoise = Callable[..., torch.Tensor]
"""(x_t, t, **condition) -> prediction, [B, C, H, W] each."""


def single(model: nn.Module, device: torch.device) -> Denoise:
    """One denoiser for all timesteps; a t in pinned memory comes to a GPU without a wait."""
    model = model.to(device).eval()
    return lambda x, t, **condition: model(x, t.to(x.device, non_blocking=True), **condition).sample


def regression_target(noise_schedule: Any, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the network is asked to predict: ε, v or x_0, by the schedule's `prediction_type`. [B, C, H, W]."""
    kind = noise_schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    return x0 if kind == "sample" else noise_schedule.get_velocity(x0, noise, t)


def denoising_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """‖ε − ε_θi(x_t, t)‖² (Eq. 3), the mean over the elements of each sample. [B, C, H, W] -> [B]."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def consistency_loss(prediction: torch.Tensor, teacher_prediction: torch.Tensor) -> torch.Tensor:
    """‖ε_θ(x_t, t) − ε_θi(x_t, t)‖² (Eq. 4), on the same x_t and t. [B, C, H, W] -> [B]."""
    return denoising_loss(prediction, teacher_prediction)
