"""Our samplers beside diffusers' own: pipelines pixel by pixel, schedulers bit by bit; a denoiser known by heart."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sampler_params
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import AysSchedules
from text_to_image import SCHEDULE, write_stable_diffusion

from deme_core.checkpoints import load_denoiser, noise_schedule
from deme_core.data.images import to_pixels
from deme_core.hub_layouts import import_pipeline
from deme_core.sampling.generate import Sampler, single
from deme_core.sampling.schedulers import make_scheduler, quadratic_timesteps
from deme_core.seeds import SeedBlock, image_generators

CPU = torch.device("cpu")
KINDS: dict[str, Any] = {
    "ddim": DDIMScheduler, "ddpm": DDPMScheduler, "pndm": PNDMScheduler, "dpm_solver": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}  # fmt: skip
SPACINGS = {"uniform": "leading", "trailing": "trailing", "linspace": "linspace"}
LATENT = {key: SCHEDULE[key] for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
# As diffusers saves them: no clip_sample; one that is true; no clip_sample and no set_alpha_to_one; another offset.
SAVED: dict[str, Any] = {
    "pndm": PNDMScheduler(**SCHEDULE),
    "ddim": DDIMScheduler(**LATENT, clip_sample=True, set_alpha_to_one=False),
    "ddpm": DDPMScheduler(**LATENT, prediction_type="v_prediction"),
    "dpm_solver": DPMSolverMultistepScheduler(**LATENT),
    "karras": DPMSolverMultistepScheduler(**LATENT, use_karras_sigmas=True, steps_offset=3),
    "thresholding": DDIMScheduler(**LATENT, thresholding=True, sample_max_value=1.5, steps_offset=1),
}


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StableDiffusionPipeline]:
    """A text-to-image pipeline whose scheduler is written anew by each test, and its parts as diffusers loads them."""
    folder = tmp_path_factory.mktemp("latent")
    write_stable_diffusion(folder / "hub")
    import_pipeline(folder / "hub", folder / "pipeline")
    return folder / "pipeline", StableDiffusionPipeline.from_pretrained(folder / "pipeline", safety_checker=None)


@pytest.mark.parametrize(
    ("saved", "kind"),
    [
        *itertools.product(("pndm", "ddim", "ddpm", "dpm_solver"), ("ddim", "ddpm")),
        *((saved, kind) for saved in ("ddpm", "dpm_solver") for kind in ("pndm", "dpm_solver", "unipc")),
        ("karras", "dpm_solver"), ("karras", "unipc"), ("karras", "ddim"), ("thresholding", "ddim"),
    ],
)  # fmt: skip
def test_latents_are_those_of_the_stock_pipeline_for_every_config_that_diffusers_saves(
    latent: tuple[Path, StableDiffusionPipeline], saved: str, kind: str
) -> None:
    """StableDiffusionPipeline, which overrides `clip_sample` and `steps_offset`: they were up to 38 of 255 off."""
    folder, parts = latent
    SAVED[saved].save_pretrained(folder / "scheduler")
    options = {"skip_prk_steps": True} if kind == "pndm" else {}
    scheduler = KINDS[kind].from_pretrained(folder / "scheduler", timestep_spacing="leading", **options)
    stock = StableDiffusionPipeline(**parts.components | {"scheduler": scheduler}, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    generators = image_generators(SeedBlock.EVALUATION, range(2))
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    theirs = stock(
        ["one", "two"], num_inference_steps=4, guidance_scale=1.0, latents=noise, generator=generators, output_type="pt"
    ).images  # fmt: skip
    sampler = Sampler.of(folder, sampler_params(kind=kind, steps=4, block=2), CPU, ["one", "two"])
    ours = sampler.images(single(load_denoiser(folder / "unet"), CPU), SeedBlock.EVALUATION, 0, 2)
    assert (ours.int() - to_pixels(theirs * 2 - 1).int()).abs().max() <= 1
    assert len(ours.unique()) > 20


@pytest.mark.parametrize("saved", ["pndm", "ddim", "ddpm", "dpm_solver"])
@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_pixels_are_those_of_the_stock_pipeline_bit_by_bit(pipeline_copy: Path, saved: str, kind: str) -> None:
    """DDIMPipeline and DDPMPipeline override nothing: a config without `clip_sample` is clipped."""
    SAVED[saved].save_pretrained(pipeline_copy / "scheduler")
    unet = UNet2DModel.from_pretrained(pipeline_copy / "unet").eval()
    scheduler = KINDS[kind].from_pretrained(pipeline_copy / "scheduler", timestep_spacing="leading")
    stock = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline}[kind](unet, scheduler)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(2, image_generators(SeedBlock.SEARCH, range(2)), num_inference_steps=7, output_type="pil").images
    sampler = Sampler.of(pipeline_copy, sampler_params(kind=kind, steps=7, block=2), CPU)
    ours = sampler.images(single(load_denoiser(pipeline_copy / "unet"), CPU), SeedBlock.SEARCH, 0, 2)
    assert torch.equal(ours, torch.stack([torch.from_numpy(np.asarray(image).copy())[None] for image in theirs]))


def final(scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    """The sample of a network that is no linear map."""
    for t in scheduler.timesteps:
        x = scheduler.step(torch.sin(3 * x + int(t)), t, x).prev_sample
    return x


NOISE = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("number", [7, 13, 20, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        {}, {"prediction_type": "v_prediction", "thresholding": True, "sample_max_value": 2.0},
        {"beta_schedule": "squaredcos_cap_v2", "set_alpha_to_one": True, "steps_offset": 1, "clip_sample": False},
    ],
)  # fmt: skip
def test_a_scheduler_is_that_of_diffusers(kind: str, spacing: str, number: int, config: dict[str, Any]) -> None:
    """DDIM alone is its own: where the gaps are not T // n, its oracle is the next test's."""
    options: dict[str, Any] = {"pndm": {"skip_prk_steps": True}}.get(kind, {})
    if kind == "dpm_solver" and "beta_schedule" in config:
        options = {"lambda_min_clipped": -5.1}
    theirs = KINDS[kind].from_config(config, timestep_spacing=SPACINGS[spacing], **options)
    theirs.set_timesteps(number)
    ours = make_scheduler(noise_schedule(config), sampler_params(kind=kind, spacing=spacing, steps=number))
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    gaps = {a - b for a, b in itertools.pairwise(theirs.timesteps.tolist())}
    if kind == "ddim" and gaps != {1000 // number}:
        assert spacing != "uniform"
        return
    torch.manual_seed(0)
    expected = final(theirs, NOISE)
    torch.manual_seed(0)
    assert torch.equal(final(ours, NOISE), expected)


@pytest.mark.parametrize("number", [7, 13, 20, 50])
@pytest.mark.parametrize("spacing", [*SPACINGS, "quadratic"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_is_the_dpm_solver_of_order_one_on_any_timesteps(prediction: str, spacing: str, number: int) -> None:
    """Lu et al. 2022, Sec. 4.1: DDIM is DPM-Solver of order 1, which diffusers has on timesteps of one's own."""
    schedule = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    ours = make_scheduler(schedule, sampler_params(kind="ddim", spacing=spacing, steps=number))
    theirs = DPMSolverMultistepScheduler.from_config(schedule.config, solver_order=1)
    theirs.set_timesteps(timesteps=ours.timesteps.tolist())
    torch.testing.assert_close(final(ours, NOISE), final(theirs, NOISE), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [7, 13, 20, 50])
def test_quadratic_timesteps_are_the_closed_form(number: int) -> None:
    expected = [int((k * 800**0.5 / (number - 1)) ** 2 + 1e-9) for k in range(number)]
    assert quadratic_timesteps(number, 1000) == sorted(set(expected), reverse=True)


@pytest.mark.parametrize("kind", ["ddpm", "dpm_solver"])
def test_own_timesteps_are_taken_as_diffusers_takes_them(kind: str) -> None:
    timesteps = [990, 700, 400, 100, 3]
    theirs = KINDS[kind].from_config(LATENT | {"clip_sample": False})
    theirs.set_timesteps(timesteps=timesteps)
    schedule = noise_schedule(LATENT | {"clip_sample": False})
    ours = make_scheduler(schedule, sampler_params(kind=kind, steps=5, timesteps=tuple(timesteps)))
    assert ours.timesteps.tolist() == timesteps
    torch.manual_seed(0)
    expected = final(theirs, NOISE)
    torch.manual_seed(0)
    assert torch.equal(final(ours, NOISE), expected)


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "dpm_solver"])
def test_the_timesteps_of_align_your_steps_are_a_name(
    latent: tuple[Path, StableDiffusionPipeline], kind: str
) -> None:  # fmt: skip
    folder, _ = latent
    SAVED["pndm"].save_pretrained(folder / "scheduler")
    table = AysSchedules["StableDiffusionTimesteps"]
    made = []
    for timesteps in ("ays", tuple(table)):
        params = sampler_params(kind=kind, steps=10, timesteps=timesteps, block=2)
        sampler = Sampler.of(folder, params, CPU, ["one"])
        assert make_scheduler(sampler.noise_schedule, params).timesteps.tolist() == table
        made.append(sampler.images(single(load_denoiser(folder / "unet"), CPU), SeedBlock.SEARCH, 0, 2))
    assert torch.equal(*made)


# Images of one Gaussian: the best denoiser is linear, and what a sampler makes of it is known

MEAN, STD = 0.3, 0.4


def gaussian(schedule: Any) -> Callable[..., torch.Tensor]:
    """The exact denoiser of pixels from N(MEAN, STD²), of the schedule's prediction type."""

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, noise = (value.sqrt() for value in (schedule.alphas_cumprod[t], 1 - schedule.alphas_cumprod[t]))
        x_0 = MEAN + STD**2 * signal / (signal**2 * STD**2 + noise**2) * (x - signal * MEAN)
        eps = (x - signal * x_0) / noise
        return {"epsilon": eps, "sample": x_0, "v_prediction": signal * eps - noise * x_0}[
            schedule.config.prediction_type
        ]

    return denoise


def made(schedule: Any, images: int = 8, **params: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """x_T and x_0 in float64."""
    sampler = Sampler(schedule, sampler_params(**params), (1, 2, 2), CPU)
    generators = image_generators(SeedBlock.SEARCH, range(images))
    x = torch.stack([torch.randn(1, 2, 2, generator=generator) for generator in generators])
    x_0, counts = sampler.denoised(gaussian(schedule), make_scheduler(schedule, sampler.params), x, generators)
    assert counts.tolist() == 2 * [sampler.params.steps + (sampler.params.kind == "pndm")]
    return x.double(), x_0.double()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", [*SPACINGS, "quadratic"])
@pytest.mark.parametrize("number", [7, 20])
def test_ddim_of_a_gaussian_is_a_product(prediction: str, spacing: str, number: int) -> None:
    """x_s − a_s μ = (a_s a_t s² + b_s b_t) / (a_t² s² + b_t²) (x_t − a_t μ), where a² = ᾱ and b² = 1 − ᾱ."""
    schedule = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    x, ours = made(schedule, spacing=spacing, steps=number)
    alphas = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
    a, b = alphas**0.5, (1 - alphas) ** 0.5
    timesteps = [*make_scheduler(schedule, sampler_params(spacing=spacing, steps=number)).timesteps.tolist(), -1]
    expected = x - a[timesteps[0]] * MEAN
    for t, s in itertools.pairwise(timesteps):
        expected = expected * ((a[s] * a[t] * STD**2 + b[s] * b[t]) / (a[t] ** 2 * STD**2 + b[t] ** 2))
    torch.testing.assert_close(ours, MEAN + expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "spacing", "of_20", "of_100"),
    [
        ("ddim", "trailing", 0.35, 0.08), ("pndm", "uniform", 0.01, 0.001), ("dpm_solver", "trailing", 0.2, 0.005),
        ("dpm_solver", "linspace", 0.2, 0.005), ("unipc", "trailing", 0.2, 0.008),
    ],
)  # fmt: skip
def test_every_sampler_finds_the_end_of_the_probability_flow(
    kind: str, spacing: str, of_20: float, of_100: float
) -> None:
    """(x_t − a_t μ) / √(a_t² s² + b_t²) is the same along the flow: x_0 = μ + s (x_T − a_T μ) / √(a_T² s² + b_T²)."""
    schedule = DDPMScheduler(clip_sample=False)
    for number, error in ((20, of_20), (100, of_100)):
        x, ours = made(schedule, kind=kind, spacing=spacing, steps=number)
        first = int(make_scheduler(schedule, sampler_params(kind=kind, spacing=spacing, steps=number)).timesteps[0])
        alpha = float(schedule.alphas_cumprod[first])
        exact = MEAN + STD * (x - alpha**0.5 * MEAN) / (alpha * STD**2 + 1 - alpha) ** 0.5
        assert (ours - exact).abs().max() < error * STD


def test_ddpm_of_a_gaussian_has_its_mean_and_its_variance() -> None:
    """Ho et al. 2020, Eq. 7: x_s is A x̂_0 + B x_t + √β̃ z, so that mean and variance follow step by step."""
    schedule = DDPMScheduler(clip_sample=False)
    _, ours = made(schedule, images=3000, kind="ddpm", steps=20)
    alphas = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise([*range(950, -1, -50), -1]):
        step, left = alphas[t] / alphas[s], 1 - alphas[t]
        gain = STD**2 * alphas[t] ** 0.5 / (alphas[t] * STD**2 + left)
        to_x0, to_x = alphas[s] ** 0.5 * (1 - step) / left, step**0.5 * (1 - alphas[s]) / left
        mean = to_x0 * (MEAN + gain * (mean - alphas[t] ** 0.5 * MEAN)) + to_x * mean
        variance = (to_x0 * gain + to_x) ** 2 * variance + (1 - alphas[s]) / left * (1 - step)
    assert float(ours.mean()) == pytest.approx(mean, abs=0.02)
    assert float(ours.std()) == pytest.approx(variance**0.5, abs=0.01)
    assert abs(mean - MEAN) < 0.02
    assert abs(variance**0.5 - STD) < 0.1
