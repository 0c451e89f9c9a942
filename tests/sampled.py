"""Small samplings, for the tests of sampling."""

from typing import Any

import torch
from conftest import sampler_params
from diffusers import DDPMScheduler

from deme_core.sampling.generate import Sampler

CPU = torch.device("cpu")

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def fake(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A denoiser whose images spread over all grey levels."""
    return 1.2 * x


def fake_sampler(**params: Any) -> Sampler:
    """A sampler of 2×2 images that costs nothing; to be used with `fake`."""
    return Sampler(DDPMScheduler(**SCHEDULE), sampler_params(steps=1, **params), (1, 2, 2), CPU)
