"""Sampling with prompts: guidance by hand, samplers as stock diffusers has them, image k for any way of asking."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampler_params
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import load_denoiser
from deme_core.data.images import to_pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline
from deme_core.sampling.conditions import UNCONDITIONAL, Conditions, check_prompts, guided
from deme_core.sampling.generate import Sampler
from deme_core.sampling.schedulers import make_scheduler
from deme_core.seeds import SeedBlock, image_generators

CPU = torch.device("cpu")
PROMPTS = ("digit 1", "two", "a very long line of words")
STOCK = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm_solver": DPMSolverMultistepScheduler}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(prediction type) -> a pipeline."""
    made: dict[str, Path] = {}

    def pipeline(prediction_type: str = "epsilon") -> Path:
        if prediction_type not in made:
            folder = tmp_path_factory.mktemp(prediction_type)
            write_stable_diffusion(folder / "hub", prediction_type=prediction_type)
            import_pipeline(folder / "hub", folder / "pipeline")
            made[prediction_type] = folder / "pipeline"
        return made[prediction_type]

    return pipeline


def words(texts: Sequence[str]) -> torch.Tensor:
    """An embedding that says how long each text is, [n, 1, 1]."""
    return torch.tensor([float(len(text)) for text in texts])[:, None, None]


def echo(x: torch.Tensor, t: Any, encoder_hidden_states: torch.Tensor | None = None) -> torch.Tensor:
    """A denoiser that predicts its condition."""
    assert encoder_hidden_states is not None
    assert len(encoder_hidden_states) == len(x)
    return encoder_hidden_states[:, :, :, None].expand_as(x)


# Conditions and guidance


def test_image_k_has_prompt_k_modulo_their_number() -> None:
    condition = Conditions(PROMPTS, words).of(range(2, 6))["encoder_hidden_states"]
    assert condition.flatten().tolist() == [len(PROMPTS[k]) for k in (2, 0, 1, 2)]
    assert Conditions(PROMPTS, words).blank(3)["encoder_hidden_states"].flatten().tolist() == [0.0] * 3
    assert (UNCONDITIONAL.of(range(4)), UNCONDITIONAL.blank(4), UNCONDITIONAL.sha256) == ({}, {}, None)
    assert Conditions(PROMPTS, words).sha256 != Conditions(PROMPTS[::-1], words).sha256


@pytest.mark.parametrize(("guidance", "expected"), [(1.0, [3.0, 7.0]), (0.0, [2.0, 2.0]), (7.5, [9.5, 39.5])])
def test_guidance_by_hand(guidance: float, expected: list[float]) -> None:
    """2 + s(c − 2) for c = 3 and 7."""
    calls: list[int] = []

    def denoise(x: torch.Tensor, t: Any, **condition: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return echo(x, t, **condition)

    condition = {"encoder_hidden_states": torch.tensor([3.0, 7.0])[:, None, None]}
    blank = {"encoder_hidden_states": torch.tensor([2.0, 2.0])[:, None, None]}
    prediction = guided(denoise, condition, blank, guidance)(torch.zeros(2, 1, 1, 1), torch.tensor(5))
    assert prediction.flatten().tolist() == expected
    assert calls == [2 if guidance == 1 else 4]


def test_network_calls_are_counted() -> None:
    counts = {
        (kind, guidance): sampler_params(kind=kind, steps=10, guidance=guidance).calls
        for kind in ("ddim", "pndm", "dpm_solver")
        for guidance in (1.0, 7.5)
    }
    assert list(counts.values()) == [10, 20, 11, 22, 10, 20]


# The samples


@pytest.mark.parametrize(
    ("kind", "prediction", "guidance"),
    [
        ("pndm", "epsilon", 7.5), ("pndm", "v_prediction", 7.5), ("ddim", "epsilon", 1.0),
        ("dpm_solver", "epsilon", 3.0), ("dpm_solver", "v_prediction", 3.0),
    ],
)  # fmt: skip
def test_the_images_are_those_of_the_stock_pipeline(
    make: Callable[..., Path], kind: str, prediction: str, guidance: float
) -> None:
    folder = make(prediction)
    params = sampler_params(kind=kind, steps=5, guidance=guidance, block=3)
    ours = Sampler.of(folder, params, CPU, PROMPTS).images(
        single(load_denoiser(folder / "unet"), CPU), SeedBlock.EVALUATION, 0, 3
    )
    scheduler = STOCK[kind].from_pretrained(folder / "scheduler", timestep_spacing="leading")
    # Given to the constructor, which overrides its config; what is put in the place of one later stays as it is.
    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, scheduler=scheduler)
    stock.set_progress_bar_config(disable=True)
    latents = torch.stack([torch.randn(4, 8, 8, generator=g) for g in image_generators(SeedBlock.EVALUATION, range(3))])
    theirs = stock(
        list(PROMPTS), num_inference_steps=5, guidance_scale=guidance, latents=latents, output_type="pt"
    ).images  # fmt: skip
    assert (ours.int() - to_pixels(theirs * 2 - 1).int()).abs().max() <= 1


def test_the_same_pictures_for_any_way_of_asking(make: Callable[..., Path]) -> None:
    folder = make()
    denoise = single(load_denoiser(folder / "unet"), CPU)
    sampler = Sampler.of(folder, sampler_params(kind="pndm", steps=2, guidance=4.0, block=4), CPU, PROMPTS)
    whole = sampler.images(denoise, SeedBlock.EVALUATION, 0, 10)
    for first, count in ((0, 1), (3, 4), (6, 4), (9, 1)):
        assert torch.equal(sampler.images(denoise, SeedBlock.EVALUATION, first, count), whole[first : first + count])
    again = Sampler.of(folder, sampler_params(kind="pndm", steps=2, guidance=4.0, block=4), CPU, PROMPTS * 2)
    assert torch.equal(
        again.images(denoise, SeedBlock.EVALUATION, 0, 10), whole
    )  # prompts in turn, again from the first
    assert not torch.equal(sampler.images(denoise, SeedBlock.SEARCH, 0, 10), whole)


def test_a_vae_whose_pictures_are_not_finite_is_found_out(make: Callable[..., Path]) -> None:
    sampler = Sampler.of(make(), sampler_params(steps=2), CPU, PROMPTS)
    denoise = single(load_denoiser(make() / "unet"), CPU)
    vae = sampler.decode.__self__.vae  # type: ignore[attr-defined]
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(InputError, match=r"^m: the VAE turns finite latents into pictures that are not finite"):
        sampler.images(denoise, SeedBlock.EVALUATION, 0, 3, lambda t: "m")


def test_prompts_and_pipelines_must_belong_together(make: Callable[..., Path], pipeline: Path) -> None:
    with pytest.raises(InputError, match="sampled with prompts, and there are none"):
        Sampler.of(make(), sampler_params(), CPU)
    for prompts, guidance in ((PROMPTS, 1.0), ((), 7.5)):
        with pytest.raises(InputError, match=r"no text-to-image pipeline, .* no prompts and sampler.guidance = 1"):
            Sampler.of(pipeline, sampler_params(guidance=guidance), CPU, prompts)


def test_prompts_are_checked_before_any_training(make: Callable[..., Path], pipeline: Path) -> None:
    for folder, prompts, guidance in ((make(), "a", 7.5), (pipeline, None, 1.0), (None, "a", 7.5), (None, None, 1.0)):
        check_prompts(prompts, {"a": 0}, guidance, folder)
    for folder, prompts, guidance, message in (
        (None, "b", 1.0, r"sample\.prompts = 'b': the sets of `prompts` are a"),
        (make(), None, 1.0, r"sample\.prompts = None: .* is sampled with prompts; sets are a"),
        (pipeline, None, 7.5, "no text-to-image pipeline, .* given are no prompts and guidance 7.5"),
        (pipeline, "a", 1.0, "no text-to-image pipeline, .* given are 1 prompts"),
    ):
        with pytest.raises(InputError, match=message):
            check_prompts(prompts, {"a": 0}, guidance, folder)


def test_long_prompts_are_counted_before_sampling(
    make: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Sampler.of(make(), sampler_params(), CPU, ["1 2 3 4 5 6 7 8 9 0 1 2", "1"])
    assert capsys.readouterr().out.startswith("1 of 2 texts are longer than the 12 tokens")


# Samplers


def test_pndm_makes_no_runge_kutta_steps_whatever_the_checkpoint_says() -> None:
    scheduler = make_scheduler(DDPMScheduler(), sampler_params(kind="pndm", steps=10))
    assert len(scheduler.timesteps) == 11
    assert scheduler.config.skip_prk_steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pndm", "steps": 1}, "sampler.steps = 1: must be at least 2 with pndm"),
        ({"kind": "pndm", "spacing": "quadratic"}, "is quadratic with the ddim sampler only"),
        ({"kind": "ddpm", "spacing": "quadratic"}, "is quadratic with the ddim sampler only"),
        ({"guidance": float("nan")}, "sampler.guidance = nan: must be a finite number"),
    ],
)
def test_what_no_sampler_does_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler_params(**changes)
