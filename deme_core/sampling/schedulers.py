"""Samplers of diffusers, with the spacings of timesteps that the papers use."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from deme_core.params import check
from deme_core.sampling.settings import SamplerParams

# They remember the predictions of earlier steps, and draw no noise.
MULTISTEP: dict[str, tuple[Any, dict[str, Any]]] = {
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "dpm_solver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
}
# diffusers' own remedy for DPM-Solver on the cosine schedule, whose last timestep has a signal of 5e-5: it starts where
# the logarithm of signal / noise is no lower than this.
CLIPPED = {"lambda_min_clipped": -5.1}
FAINT = 1e-3  # a signal below it says nothing of x_0 to a network that predicts ε


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
    own = params.timesteps
    check(own is None or own[0] < T, "sampler.timesteps", own, f"must lie below T = {T}")
    if params.kind == "ddpm":
        scheduler = DDPMScheduler.from_config(noise_schedule.config)
        scheduler.set_timesteps(params.steps)
        return scheduler
    stock = "trailing" if params.spacing == "trailing" else "leading"
    if params.kind in MULTISTEP:
        cls, options = MULTISTEP[params.kind]
        if params.kind == "dpm_solver" and noise_schedule.config.beta_schedule == "squaredcos_cap_v2":
            options = options | CLIPPED
        scheduler = cls.from_config(noise_schedule.config, timestep_spacing=stock, **options)
        if own is not None:
            scheduler.set_timesteps(timesteps=list(own))
        else:
            scheduler.set_timesteps(params.steps)
        return scheduler
    scheduler = SpacedDDIMScheduler.from_config(noise_schedule.config, timestep_spacing=stock)
    scheduler.set_timesteps(params.steps, quadratic=params.spacing == "quadratic")
    if own is not None:
        scheduler.timesteps = torch.tensor(own)
    return scheduler


def faint_start(noise_schedule: Any, params: SamplerParams) -> str | None:
    """Why the first step of a sampler starts from nothing, in a sentence for people; None where it does not.

    There ε is the input itself, and x_0 = (x − σε) / s the network's error over a signal s of nearly 0. A network that
    predicts v or x_0 has no such division.
    """
    if noise_schedule.config.prediction_type != "epsilon":
        return None
    signals = noise_schedule.alphas_cumprod.sqrt()
    first = int(make_scheduler(noise_schedule, params).timesteps[0])
    if float(signals[first]) >= FAINT:
        return None
    return (
        f"sampler {params.kind} with {params.spacing} spacing starts at t = {first}, where the signal is"
        f" {float(signals[first]):.1e}: a network that predicts ε says nothing of the image there. Take another"
        f" sampler.spacing, or sampler.timesteps that start at {int((signals >= FAINT).nonzero().max())} or below"
    )
