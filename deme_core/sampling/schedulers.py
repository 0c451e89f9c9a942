"""Samplers of diffusers, with the spacings of timesteps that the papers use."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from deme_core.params import check
from deme_core.sampling.settings import SamplerParams

# Both remember the predictions of earlier steps, and draw no noise.
MULTISTEP: dict[str, tuple[Any, dict[str, Any]]] = {
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "dpm_solver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


class SpacedDDIMScheduler(DDIMScheduler):
    """DDIM (Song et al. 2020, Eq. 12) on any falling sequence of timesteps.

    The stock `step` goes from t to t − T // num_inference_steps, whatever the sequence says; here it goes to the
    next timestep of the sequence, and from the last one to the clean image.
    """

    config: Any
    num_inference_steps: Any

    def set_timesteps(self, num_inference_steps: int, device: Any = None, quadratic: bool = False) -> None:
        """As in diffusers; quadratic: ⌊linspace(0, √(0.8T), n)²⌋, where a repeated timestep is visited once."""
        super().set_timesteps(num_inference_steps, device)
        if quadratic:
            root = np.linspace(0, (0.8 * self.config.num_train_timesteps) ** 0.5, num_inference_steps)
            self.timesteps = torch.from_numpy(np.unique((root**2).astype(np.int64))[::-1].copy()).to(device)

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """One step to the next timestep of the sequence; arguments as in diffusers."""
        t = int(timestep)
        later = self.timesteps[self.timesteps < t]
        stride = t - (int(later.max()) if len(later) else -1)
        steps = self.num_inference_steps
        try:
            # T // (T / stride) is exactly `stride`: the stock step then lands where the sequence says.
            self.num_inference_steps = Fraction(self.config.num_train_timesteps, stride)
            return super().step(model_output, t, sample, *args, **kwargs)
        finally:
            self.num_inference_steps = steps


def make_scheduler(noise_schedule: Any, params: SamplerParams) -> Any:
    """A scheduler of diffusers, its timesteps set, for the noise schedule of a pipeline."""
    T = noise_schedule.config.num_train_timesteps
    check(params.steps <= T, "sampler.steps", params.steps, f"must be at most T = {T}")
    if params.kind == "ddpm":
        scheduler = DDPMScheduler.from_config(noise_schedule.config)
        scheduler.set_timesteps(params.steps)
        return scheduler
    stock = "trailing" if params.spacing == "trailing" else "leading"
    if params.kind in MULTISTEP:
        cls, options = MULTISTEP[params.kind]
        scheduler = cls.from_config(noise_schedule.config, timestep_spacing=stock, **options)
        scheduler.set_timesteps(params.steps)
        return scheduler
    scheduler = SpacedDDIMScheduler.from_config(noise_schedule.config, timestep_spacing=stock)
    scheduler.set_timesteps(params.steps, quadratic=params.spacing == "quadratic")
    return scheduler
