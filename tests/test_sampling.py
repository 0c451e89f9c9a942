"""Sampling: diffusers' own images bit for bit, image k the same however it is asked for, archives of equal bytes."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N, sampler_params, write_pipeline
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from sampled import CPU, SCHEDULE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deme_core.checkpoints import denoisers, load_denoiser
from deme_core.data.images import to_model, to_pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.sampling.generate import Sampler, ensemble
from deme_core.sampling.schedulers import SpacedDDIMScheduler, make_scheduler
from deme_core.seeds import SeedBlock, image_generators
from deme_core.timesteps import TimestepRanges


def steps(scheduler: Any, model: Callable, x: torch.Tensor) -> list[torch.Tensor]:
    """x_t before each step, and the final sample."""
    seen = [x]
    for t in scheduler.timesteps:
        seen.append(scheduler.step(model(seen[-1], int(t)), t, seen[-1]).prev_sample)
    return seen


# Parity with diffusers


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("number", [1, 7, 20])
def test_uniform_ddim_is_the_stock_ddim_pipeline(tmp_path: Path, prediction: str, number: int) -> None:
    path = write_pipeline(tmp_path / "pipeline", prediction_type=prediction)
    unet = UNet2DModel.from_pretrained(path / "unet").eval()
    stock = DDIMPipeline(unet, DDIMScheduler.from_pretrained(path / "scheduler"))
    generators = image_generators(SeedBlock.SEARCH, range(4))
    images = stock(4, generators, eta=0.0, num_inference_steps=number, output_type="pil").images
    sampler = Sampler.of(path, sampler_params(steps=number), CPU)
    ours = sampler.images(single(load_denoiser(path / "unet"), CPU), SeedBlock.SEARCH, 0, 4)
    assert torch.equal(ours, torch.stack([torch.from_numpy(np.asarray(image).copy())[None] for image in images]))
    assert len(ours.unique()) > 20


@pytest.mark.parametrize("number", [1, 8])
def test_ddpm_is_the_stock_ddpm_pipeline(pipeline: Path, number: int) -> None:
    stock = DDPMPipeline.from_pretrained(pipeline)
    generators = image_generators(SeedBlock.EVALUATION, range(4))
    images = stock(4, generators, num_inference_steps=number, output_type="pil").images
    sampler = Sampler.of(pipeline, sampler_params(kind="ddpm", steps=number), CPU)
    ours = sampler.images(single(load_denoiser(pipeline / "unet"), CPU), SeedBlock.EVALUATION, 0, 4)
    assert torch.equal(ours, torch.stack([torch.from_numpy(np.asarray(image).copy())[None] for image in images]))


@pytest.mark.parametrize("number", [1, 3, 20, 50, 333, 1000])
@pytest.mark.parametrize(("spacing", "stock"), [("uniform", "leading"), ("trailing", "trailing")])
def test_spaced_timesteps_are_those_of_diffusers(number: int, spacing: str, stock: str) -> None:
    expected = DDIMScheduler(**SCHEDULE, timestep_spacing=stock)
    expected.set_timesteps(number)
    scheduler = make_scheduler(DDPMScheduler(**SCHEDULE), sampler_params(steps=number, spacing=spacing))
    assert torch.equal(scheduler.timesteps, expected.timesteps)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize(("spacing", "stock"), [("uniform", "leading"), ("trailing", "trailing")])
def test_a_step_is_that_of_diffusers(spacing: str, stock: str, offset: int, to_one: bool) -> None:
    config = SCHEDULE | {"steps_offset": offset, "set_alpha_to_one": to_one}
    expected = DDIMScheduler(**config, timestep_spacing=stock)
    expected.set_timesteps(20)
    scheduler = SpacedDDIMScheduler(**config, timestep_spacing=stock)
    scheduler.set_timesteps(20)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = lambda x, t: torch.sin(x + t)  # noqa: E731
    for ours, theirs in zip(steps(scheduler, model, x), steps(expected, model, x), strict=True):
        assert torch.equal(ours, theirs)
    assert scheduler.num_inference_steps == 20


# Quadratic spacing


@pytest.mark.parametrize("number", [2, 10, 50, 100])
def test_quadratic_timesteps_are_the_closed_form(number: int) -> None:
    scheduler = make_scheduler(DDPMScheduler(**SCHEDULE), sampler_params(steps=number, spacing="quadratic"))
    expected = {int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), number) ** 2}
    assert scheduler.timesteps.tolist() == sorted(expected, reverse=True)
    assert scheduler.timesteps[-1] == 0
    assert scheduler.timesteps[0] in (799, 800)


def test_repeated_quadratic_timesteps_are_visited_once() -> None:
    scheduler = make_scheduler(DDPMScheduler(**SCHEDULE), sampler_params(steps=500, spacing="quadratic"))
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) < 500
    assert all(a > b for a, b in itertools.pairwise(timesteps))


@pytest.mark.parametrize(("spacing", "number"), [("quadratic", 2), ("quadratic", 20), ("trailing", 7), ("uniform", 7)])
def test_every_step_lands_on_the_next_timestep(spacing: str, number: int) -> None:
    """DDIM (Eq. 12, η = 0) in float64: x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s) ε, s the next timestep, ᾱ = 1 at the end."""
    scheduler = make_scheduler(DDPMScheduler(**SCHEDULE), sampler_params(steps=number, spacing=spacing))
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = lambda x, t: torch.sin(x + t)  # noqa: E731
    seen = steps(scheduler, model, x)
    signal = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)  # [-1] is the clean image
    timesteps = [*scheduler.timesteps.tolist(), -1]
    for (t, s), (before, after) in zip(itertools.pairwise(timesteps), itertools.pairwise(seen), strict=True):
        eps = model(before, t)
        x0 = (before - (1 - signal[t]) ** 0.5 * eps) / signal[t] ** 0.5
        expected = signal[s] ** 0.5 * x0 + (1 - signal[s]) ** 0.5 * eps
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(InputError, match=r"sampler\.steps = 1001: must be at most T = 1000"):
        make_scheduler(DDPMScheduler(**SCHEDULE), sampler_params(steps=1001))


# Image k depends on its seed alone


@given(data=st.data())
def test_images_do_not_depend_on_how_they_are_asked_for(twelve: tuple, data: st.DataObject) -> None:
    sampler, denoise, images = twelve
    first = data.draw(st.integers(0, 11))
    count = data.draw(st.integers(1, 12 - first))
    assert torch.equal(sampler.images(denoise, SeedBlock.SEARCH, first, count), images[first : first + count])


def test_images_are_different_and_those_of_their_block(twelve: tuple) -> None:
    sampler, denoise, images = twelve
    other = sampler.images(denoise, SeedBlock.EVALUATION, 0, 12)
    assert len({image.numpy().tobytes() for image in (*images, *other)}) == 24
    assert images.shape == (12, 1, 8, 8)
    assert images.dtype == torch.uint8


def test_batches_are_blocks_of_full_size(twelve: tuple) -> None:
    sampler, denoise, _ = twelve
    sizes = []

    def seen(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return denoise(x, t)

    parts = list(sampler.generate(seen, SeedBlock.SEARCH, 3, 6))
    assert [len(part) for part in parts] == [1, 4, 1]
    assert set(sizes) == {4}


def test_half_precision_changes_the_images_a_little(pipeline: Path, twelve: tuple) -> None:
    _, denoise, images = twelve
    sampler = Sampler.of(pipeline, sampler_params(block=4, dtype="bfloat16"), CPU)
    half = sampler.images(denoise, SeedBlock.SEARCH, 0, 12)
    difference = (half.int() - images.int()).abs()
    assert 0 < difference.double().mean() < 8


def test_pixels_are_rounded_as_diffusers_rounds_them() -> None:
    x = torch.linspace(-1.2, 1.2, 2001)
    expected = ((x / 2 + 0.5).clamp(0, 1).numpy() * 255).round().astype("uint8")
    assert np.array_equal(to_pixels(x).numpy(), expected)
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_model(levels)), levels)


# Steps do not wait for a GPU


class Waits(TorchDispatchMode):
    """Refuses what a CPU would wait for a device over; on the device `meta` no number can be read anyway."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        options = kwargs or {}
        if func is torch.ops.aten._to_copy.default and options.get("device", args[0].device) != args[0].device:
            assert options.get("non_blocking"), "a copy that the CPU waits for"
        return func(*args, **options)


@pytest.mark.parametrize("kind", ["ddim", "pndm", "dpm_solver"])
@pytest.mark.parametrize("experts", [1, 2])
def test_no_step_waits_for_the_device(pipeline: Path, kind: str, experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    sampler = Sampler.of(pipeline, sampler_params(kind=kind), meta)
    models = [load_denoiser(pipeline / "unet") for _ in range(experts)]
    denoise = ensemble(models, TimestepRanges.equal(2, 1000), meta) if experts == 2 else single(models[0], meta)
    x, scheduler = torch.zeros(4, *sampler.shape, device=meta), make_scheduler(sampler.noise_schedule, sampler.params)
    with torch.no_grad(), Waits():
        x, counts = sampler.denoised(denoise, scheduler, x, [])
    assert (x.device, counts.device) == (meta, meta)


# Ensemble


class Expert(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.full_like(x, self.value))


@pytest.mark.parametrize("ranges", [TimestepRanges.equal(3, 1000), TimestepRanges((0, 10, 500, 1000))])
def test_the_ensemble_gives_each_timestep_to_its_expert(ranges: TimestepRanges) -> None:
    denoise = ensemble([Expert(1.0), Expert(2.0), Expert(3.0)], ranges, CPU)
    for t in (0, 9, 10, 333, 334, 499, 500, 666, 667, 999):
        assert denoise(torch.zeros(1, 1, 2, 2), torch.tensor(t)).unique().item() == ranges.expert(t)


def test_an_ensemble_of_equal_experts_is_the_single_model(pipeline: Path, twelve: tuple) -> None:
    sampler, _, images = twelve
    experts = [load_denoiser(pipeline / "unet") for _ in range(4)]
    denoise = ensemble(experts, TimestepRanges.equal(4, 1000), CPU)
    assert torch.equal(sampler.images(denoise, SeedBlock.SEARCH, 0, 12), images)


def test_an_ensemble_of_the_experts_is_none_of_them(experts: list[Path], twelve: tuple) -> None:
    sampler, _, base = twelve
    folders, ranges = denoisers(experts[0].parent)
    assert (folders, ranges) == (experts, TimestepRanges.equal(N, 1000))
    models = [load_denoiser(folder) for folder in folders]
    images = [sampler.images(single(model, CPU), SeedBlock.SEARCH, 0, 12) for model in models]
    images += [sampler.images(ensemble(models, ranges, CPU), SeedBlock.SEARCH, 0, 12), base]
    assert len({image.numpy().tobytes() for image in images}) == 4


def test_a_pipeline_is_its_one_denoiser(pipeline: Path) -> None:
    assert denoisers(pipeline) == ([pipeline / "unet"], None)
