"""Samplers of diffusers as its pipelines run them, with the spacings of timesteps that the papers use."""

from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import AysSchedules, SchedulerOutput

from deme_core.errors import InputError
from deme_core.params import check
from deme_core.sampling.settings import SamplerParams

# What StableDiffusionPipeline sets in the config of any scheduler, whatever that says or leaves out: latents are not
# bound to [-1, 1]. It is the only pipeline of our kinds that overrides a config; those of pixels take it as it is.
LATENT = {"clip_sample": False, "steps_offset": 1}
SPACINGS = {"uniform": "leading", "quadratic": "leading", "trailing": "trailing", "linspace": "linspace"}
# diffusers' own remedy for DPM-Solver on the cosine schedule, whose last timestep has a signal of 5e-5: it starts where
# the logarithm of signal / noise is no lower than this.
CLIPPED = {"lambda_min_clipped": -5.1}
FAINT = 1e-3  # a signal below it says nothing of x_0 to a network that predicts ε
AYS: Any = AysSchedules["StableDiffusionTimesteps"]  # Sabour et al. 2024, Align Your Steps
AYS_MADE_FOR = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "trained_betas": None, "rescale_betas_zero_snr": False, "prediction_type": "epsilon",
}  # fmt: skip


class SpacedDDIMScheduler(DDIMScheduler):
    """DDIM on any falling sequence of timesteps, from the last of them to the clean image.

    The stock scheduler gives config, ᾱ and its own sequences; its `step` goes from t to t − T // num_inference_steps,
    whatever the sequence says.
    """

    alphas_cumprod: Any
    config: Any
    final_alpha_cumprod: Any

    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, timesteps: list[int] | None = None
    ) -> None:
        """A number of steps, as in diffusers, or own timesteps, as its other schedulers take them."""
        super().set_timesteps(num_inference_steps if timesteps is None else len(timesteps), device)
        if timesteps is not None:
            self.timesteps = torch.tensor(timesteps, device=device)

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:  # type: ignore[override]
        """x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s) ε̂ (Song et al. 2020, Eq. 12, σ = 0), s the timestep after t, or the end."""
        after = self.timesteps[self.timesteps < timestep]
        alpha_t = self.alphas_cumprod[int(timestep)]
        alpha_s = self.alphas_cumprod[int(after.max())] if len(after) else self.final_alpha_cumprod
        signal, noise = alpha_t**0.5, (1 - alpha_t) ** 0.5
        if self.config.prediction_type == "epsilon":
            x_0, eps = (sample - noise * model_output) / signal, model_output
        elif self.config.prediction_type == "sample":
            x_0, eps = model_output, (sample - signal * model_output) / noise
        else:  # v = √ᾱ ε − √(1 − ᾱ) x_0
            x_0, eps = signal * sample - noise * model_output, signal * model_output + noise * sample
        return SchedulerOutput(prev_sample=alpha_s**0.5 * self.bounded(x_0) + (1 - alpha_s) ** 0.5 * eps)

    def bounded(self, x_0: torch.Tensor) -> torch.Tensor:
        """x̂_0 within its range, by dynamic thresholding (Saharia et al. 2022, Sec. 2.3) or clipping; or as it is."""
        if self.config.thresholding:
            quantile = torch.quantile(x_0.abs().flatten(1), self.config.dynamic_thresholding_ratio, dim=1)
            s = quantile.clamp(1, self.config.sample_max_value)[:, None, None, None]
            return x_0.clamp(-s, s) / s
        bound = self.config.clip_sample_range
        return x_0.clamp(-bound, bound) if self.config.clip_sample else x_0


# pndm, dpm_solver and unipc remember the predictions of earlier steps; ddpm alone draws noise.
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (SpacedDDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "dpm_solver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
}


def quadratic_timesteps(n: int, T: int) -> list[int]:
    """⌊linspace(0, √(0.8T), n)²⌋ (Song et al. 2020, App. D.2), falling; a repeated timestep is visited once."""
    return np.unique((np.linspace(0, (0.8 * T) ** 0.5, n) ** 2).astype(np.int64))[::-1].tolist()  # type: ignore[no-any-return]


def stock_schedule(noise_schedule: Any, latents: bool) -> Any:
    """The noise schedule with what the stock pipeline of its kind overrides: that of latents, or of pixels."""
    return noise_schedule.from_config(noise_schedule.config, **LATENT) if latents else noise_schedule


def make_scheduler(noise_schedule: Any, params: SamplerParams) -> Any:
    """A scheduler of diffusers, its timesteps set, for the noise schedule of a pipeline."""
    T = noise_schedule.config.num_train_timesteps
    check(params.steps <= T, "sampler.steps", params.steps, f"must be at most T = {T}")
    timesteps = AYS if params.timesteps == "ays" else params.timesteps
    check(timesteps is None or timesteps[0] < T, "sampler.timesteps", timesteps, f"must lie below T = {T}")
    cls, options = KINDS[params.kind]
    if params.kind == "dpm_solver" and noise_schedule.config.beta_schedule == "squaredcos_cap_v2":
        options = options | CLIPPED
    scheduler = cls.from_config(noise_schedule.config, timestep_spacing=SPACINGS[params.spacing], **options)
    if timesteps is None and params.spacing == "quadratic":
        timesteps = quadratic_timesteps(params.steps, T)
    if timesteps is None:
        scheduler.set_timesteps(params.steps)
    else:
        scheduler.set_timesteps(timesteps=list(timesteps))
    return scheduler


def check_sampler(noise_schedule: Any, params: SamplerParams, latents: bool) -> None:
    """Refuse a sampler that cannot work with a model's noise schedule, whatever a network predicts: by a trial on one
    pixel, beside the rules.
    """
    noise_schedule = stock_schedule(noise_schedule, latents)
    config, T = noise_schedule.config, noise_schedule.config.num_train_timesteps
    if params.timesteps == "ays":
        check(
            latents and all(config[key] == value for key, value in AYS_MADE_FOR.items()), "sampler.timesteps", "ays",
            "is a table for the latents and the noise schedule of Stable Diffusion 1; set null, or a list of your own",
        )  # fmt: skip
        check(
            params.steps == len(AYS), "sampler.steps", params.steps,
            f"must be {len(AYS)} with sampler.timesteps = ays, which is a table of so many",
        )  # fmt: skip
    where = f"params: sampler.kind = {params.kind!r} with {params.steps} steps and {params.spacing} spacing"
    try:
        scheduler = make_scheduler(noise_schedule, params)
        timesteps = scheduler.timesteps.tolist()
        outside = [t for t in timesteps if not 0 <= t < T]
        if outside or len(timesteps) > 1 == len(set(timesteps)):  # diffusers' spacings round, to t = −1 or to none
            raise InputError(
                f"{where}: visits t = {(outside or timesteps)[0]}{' all the time' * (not outside)}, where its spacing"
                f" should fall within 0 … {T - 1}; take another number of sampler.steps"
            )
        x = torch.ones(1, 1, 1, 1)
        with torch.random.fork_rng(devices=[]):  # ddpm draws
            for t in scheduler.timesteps:
                x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    except InputError:
        raise
    except (ValueError, NotImplementedError) as error:  # what diffusers raises at a config that its scheduler lacks
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: is none for this model ({reason}); take another sampler.kind") from None
    if not torch.allclose(scheduler.alphas_cumprod, noise_schedule.alphas_cumprod, atol=1e-6):
        raise InputError(
            f"{where}: knows no rescale_betas_zero_snr, and would take another noise schedule than the model's; take"
            " another sampler.kind"
        )
    clips = config.thresholding or (config.clip_sample and params.kind in ("ddim", "ddpm"))
    if (note := faint_start(noise_schedule, params)) and not clips and noise_schedule.alphas_cumprod[timesteps[0]] == 0:
        raise InputError(f"params: {note}")
    if not bool(x.isfinite()):
        raise InputError(
            f"{where}: divides by a signal or a noise of 0 between t = {timesteps[0]} and {timesteps[-1]}, so that"
            f" nothing finite comes out; take another sampler.spacing or sampler.kind"
        )


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
