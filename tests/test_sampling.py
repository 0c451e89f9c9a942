"""Sampling: diffusers' own images bit for bit, image k the same however it is asked for, archives of equal bytes."""

import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N, files_of, sampler_params, write_pipeline
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deme_core.checkpoints import denoisers, load_denoiser, load_noise_schedule, save_denoiser, weights_file
from deme_core.data.archive import PER_ARCHIVE, read_images, read_protocol, write_archive, write_grid
from deme_core.data.examples import Pixels
from deme_core.data.images import to_model, to_pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.sampling.generate import Sampler, ensemble
from deme_core.sampling.sample import sample_model, write_missing
from deme_core.sampling.schedulers import SpacedDDIMScheduler, make_scheduler
from deme_core.seeds import SeedBlock, image_generators
from deme_core.tensors import read_recipe
from deme_core.timesteps import TimestepRanges
from deme_core.training.range_losses import image_losses, range_losses

CPU = torch.device("cpu")
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def fake_sampler(**params: Any) -> Sampler:
    """A sampler of 2×2 images that costs nothing; to be used with `fake`."""
    return Sampler(DDPMScheduler(**SCHEDULE), sampler_params(steps=1, **params), (1, 2, 2), CPU)


def fake(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A denoiser whose images spread over all grey levels."""
    return 1.2 * x


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


@pytest.fixture(scope="module")
def twelve(pipeline: Path) -> tuple[Sampler, Callable, torch.Tensor]:
    sampler = Sampler.of(pipeline, sampler_params(block=4), CPU)
    denoise = single(load_denoiser(pipeline / "unet"), CPU)
    return sampler, denoise, sampler.images(denoise, SeedBlock.SEARCH, 0, 12)


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


# Numbers that are not finite


def breaking(step: int, value: float) -> Callable:
    """A denoiser that predicts `value` in one pixel of one image, at one step."""
    calls = itertools.count(1)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        prediction = 0.1 * x
        if next(calls) == step:
            prediction[-1, 0, 1, 1] = value
        return prediction

    return denoise


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "step", "t", "dtype", "remedy"),
    [
        ("ddim", 1, 800, "float16", "take sampler.dtype=float32 or bfloat16"),
        ("ddim", 5, 0, "bfloat16", "take sampler.dtype=float32, or look at the curve of its training"),
        ("ddpm", 3, 400, "float32", "look at the curve of its training, and at the weights that it was merged with"),
        ("pndm", 6, 0, "float32", "look at the curve"),
        ("dpm_solver", 2, 664, "float32", "look at the curve"),
    ],
)
def test_a_prediction_that_is_not_finite_becomes_no_pixel(
    kind: str, step: int, t: int, dtype: str, remedy: str, value: float
) -> None:
    """Even where the scheduler clips x_0, and would turn an overflow into black or white."""
    schedule = DDPMScheduler(**SCHEDULE | {"clip_sample": True})
    sampler = Sampler(schedule, sampler_params(kind=kind, steps=5, dtype=dtype), (1, 2, 2), CPU)
    assert sampler.images(breaking(100, value), SeedBlock.SEARCH, 0, 4).shape == (4, 1, 2, 2)
    where = rf"step {step} of {5 + (kind == 'pndm')} \(t = {t}\) is not finite \(images 4–7 of the seeds SEARCH\); "
    with pytest.raises(InputError, match=rf"^m{t}: its prediction at {where}{re.escape(remedy)}") as error:
        sampler.images(breaking(step, value), SeedBlock.SEARCH, 4, 2, lambda t: f"m{t}")
    assert "\n" not in str(error.value)


def test_a_step_that_overflows_is_told_from_a_prediction() -> None:
    """Finite predictions so large that x_t is infinite."""
    sampler = Sampler(DDPMScheduler(**SCHEDULE), sampler_params(), (1, 2, 2), CPU)
    with pytest.raises(InputError, match=r"^m333: step 2 of 3 of the sampler \(t = 333\) overflows, though the pred"):
        sampler.images(
            lambda x, t: torch.full_like(x, 3e38 if t == 333 else 0.0), SeedBlock.SEARCH, 0, 4, lambda t: f"m{t}"
        )


@pytest.mark.parametrize("colour", [[-1.0], [1.0], [0.2], [0.9, -0.3, 0.1]])
def test_images_of_one_colour_are_no_result(empty_folder: Path, colour: list[float]) -> None:
    """They were measured as if they were one, be they black, white or red."""
    schedule = DDPMScheduler(**SCHEDULE, prediction_type="sample")
    sampler = Sampler(schedule, sampler_params(), (len(colour), 2, 2), CPU)
    flat = lambda x, t: torch.tensor(colour)[:, None, None].expand_as(x)  # noqa: E731
    with pytest.raises(InputError, match=r"^m: all 4 images are of one colour, \[\d+.*\], in every pixel; take anoth"):
        write_missing(sampler, flat, 4, empty_folder, name=lambda t: "m")
    assert list(empty_folder.iterdir()) == []
    write_missing(sampler, flat, 1, empty_folder)  # one image may be so
    one = lambda x, t: torch.where(torch.arange(len(x))[:, None, None, None] == 2, 0.5, flat(x, t))  # noqa: E731
    write_missing(sampler, one, 4, empty_folder / "others")  # nor are blocks with one other image refused


def test_an_overflow_in_half_precision_stops_and_in_others_does_not(pipeline: Path) -> None:
    """A network whose normalisation hides weights that are a million times too large, but not from float16."""
    model = load_denoiser(pipeline / "unet")
    with torch.no_grad():
        model.conv_in.weight.mul_(1e6)
    for dtype in ("float32", "bfloat16"):
        sampler = Sampler.of(pipeline, sampler_params(dtype=dtype), CPU)
        assert len(sampler.images(single(model, CPU), SeedBlock.SEARCH, 0, 4)) == 4
    sampler = Sampler.of(pipeline, sampler_params(dtype="float16"), CPU)
    with pytest.raises(InputError, match=r"step 1 of 3 \(t = 666\) is not finite .* take sampler.dtype=float32 or bf"):
        sampler.images(single(model, CPU), SeedBlock.SEARCH, 0, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_denoiser_that_broke_is_named_and_nothing_is_written(
    pipeline_copy: Path, experts: list[Path], empty_folder: Path, threads: int
) -> None:
    torch.set_num_threads(threads)
    shutil.copytree(experts[0].parent, empty_folder / "experts")
    for folder in (pipeline_copy / "unet", empty_folder / "experts" / "1"):
        model = load_denoiser(folder)
        with torch.no_grad():
            model.conv_out.bias.fill_(math.nan)
        save_denoiser(folder, folder, model.state_dict(), read_recipe(weights_file(folder)))
    for model, message in (
        (pipeline_copy, rf"^{pipeline_copy / 'unet'}: its prediction at step 1 of 3 \(t = 666\)"),
        (empty_folder / "experts", rf"^{empty_folder / 'experts' / '1'}: its prediction at step 2 of 3 \(t = 333\)"),
    ):
        with pytest.raises(InputError, match=message):
            sample_model(model, pipeline_copy, sampler_params(), 20, empty_folder / "out")
    assert not (empty_folder / "out").exists()
    assert list((empty_folder / ".checkpoints").rglob("*.zip")) == []
    assert torch.get_num_threads() == threads


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


# Archives


def test_archives_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    sampler, images = fake_sampler(block=64), 2 * PER_ARCHIVE + 100
    write_missing(sampler, fake, images, tmp_path / "one")
    for rank in range(2):
        write_missing(sampler, fake, images, tmp_path / "two", rank, 2)
    for rank in (2, 0, 1):
        write_missing(sampler, fake, images, tmp_path / "three", rank, 3)
    assert list(files_of(tmp_path / "one")) == ["0000.zip", "0001.zip", "0002.zip"]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "three")
    written = torch.cat(list(read_images(tmp_path / "one", images)))
    assert torch.equal(written, sampler.images(fake, SeedBlock.EVALUATION, 0, images))


def test_archives_that_are_there_are_not_sampled_again(tmp_path: Path) -> None:
    sampler, images = fake_sampler(block=500), 2 * PER_ARCHIVE
    write_missing(sampler, fake, images, tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "0001.zip").unlink()
    calls = []

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return fake(x, t)

    write_missing(sampler, counted, images, tmp_path)
    assert calls == [500, 500]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("channels", [1, 3])
def test_images_survive_the_archive(tmp_path: Path, channels: int) -> None:
    pixels = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_archive(tmp_path / "a", 0, pixels)
    write_archive(tmp_path / "b", 0, pixels)
    assert torch.equal(torch.cat(list(read_images(tmp_path / "a", 5))), pixels)
    assert torch.equal(torch.cat(list(read_images(tmp_path / "a", 3))), pixels[:3])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_entries_are_numbered_stored_and_without_a_time(tmp_path: Path) -> None:
    write_archive(tmp_path, 2, torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    with zipfile.ZipFile(tmp_path / "0002.zip") as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == ["002000.png", "002001.png", "002002.png"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def chunks(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    names, at = [], 8
    while at < len(png):
        names.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4])
    return names


def test_a_png_holds_pixels_and_nothing_else(tmp_path: Path) -> None:
    pixels = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    write_archive(tmp_path, 0, pixels)
    write_grid(tmp_path / "grid.png", pixels, columns=1)
    with zipfile.ZipFile(tmp_path / "0000.zip") as archive:
        png = archive.read("000000.png")
    for image in (png, (tmp_path / "grid.png").read_bytes()):
        assert set(chunks(image)) == {b"IHDR", b"IDAT", b"IEND"}
        assert Image.open(io.BytesIO(image)).info == {}


@pytest.mark.parametrize("count", [6, 1000])
def test_fewer_images_than_asked_for_are_refused(tmp_path: Path, count: int) -> None:
    write_archive(tmp_path, 0, torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(InputError, match=rf"{count} images are asked for, 5 are there; raise sample\.images"):
        list(read_images(tmp_path, count))


def test_a_grid_is_read_like_text(tmp_path: Path) -> None:
    pixels = torch.arange(1, 4, dtype=torch.uint8)[:, None, None, None].expand(3, 1, 2, 2)
    write_grid(tmp_path / "grid.png", pixels, columns=2, scale=2)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (14, 14)
    assert (sheet[2:6, 2:6] == 1).all()
    assert (sheet[2:6, 8:12] == 2).all()
    assert (sheet[8:12, 2:6] == 3).all()
    assert (sheet[8:12, 8:12] == 255).all()


# The stage


def test_samples_of_a_model_are_images_protocol_and_preview(pipeline: Path, empty_folder: Path, twelve: tuple) -> None:
    sampler, denoise, _ = twelve
    params = sampler_params(block=4)
    for out in ("a", "b"):
        sample_model(pipeline, pipeline, params, 10, empty_folder / out)
    assert list(files_of(empty_folder / "a")) == ["0000.zip", "preview.png", "protocol.json"]
    assert files_of(empty_folder / "a") == files_of(empty_folder / "b")
    assert list((empty_folder / ".checkpoints").iterdir()) == []
    written = torch.cat(list(read_images(empty_folder / "a", 10)))
    assert torch.equal(written, sampler.images(denoise, SeedBlock.EVALUATION, 0, 10))
    protocol = read_protocol(empty_folder / "a")
    assert protocol["images"] == 10
    assert protocol["seed_block"] == "EVALUATION"
    assert protocol["sampler"] == asdict(params)
    assert protocol["parameters"] == UNet2DModel.from_pretrained(pipeline / "unet").num_parameters()


def test_the_ensemble_is_sampled_from_the_folder_of_the_experts(
    pipeline: Path, experts: list[Path], empty_folder: Path
) -> None:
    params = sampler_params(block=4)
    sample_model(experts[0].parent, pipeline, params, 8, empty_folder / "out")
    denoise = ensemble([load_denoiser(expert) for expert in experts], TimestepRanges.equal(N, 1000), CPU)
    expected = Sampler.of(pipeline, params, CPU).images(denoise, SeedBlock.EVALUATION, 0, 8)
    assert torch.equal(torch.cat(list(read_images(empty_folder / "out", 8))), expected)
    parameters = sum(value.numel() for value in load_denoiser(experts[0]).parameters())
    assert read_protocol(empty_folder / "out")["parameters"] == N * parameters


def test_a_folder_without_experts_is_refused(pipeline: Path, empty_folder: Path) -> None:
    with pytest.raises(InputError, match="no such file; a denoiser folder holds"):
        sample_model(empty_folder, pipeline, sampler_params(), 4, empty_folder / "out")
    assert not (empty_folder / "out").exists()


def test_samples_without_a_protocol_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no protocol\.json; sample the images again"):
        read_protocol(tmp_path)


def test_unfinished_samples_of_another_noise_schedule_are_not_taken_over(
    pipeline: Path, pipeline_copy: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pipeline_copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}))
    with monkeypatch.context() as patch:
        patch.setattr("deme_core.sampling.sample.shutil.move", None)  # stops after the archives are written
        with pytest.raises(TypeError):
            sample_model(pipeline, pipeline, sampler_params(), 4, empty_folder / "cut")
    sample_model(pipeline_copy, pipeline_copy, sampler_params(), 4, empty_folder / "out")
    sampler = Sampler.of(pipeline_copy, sampler_params(), CPU)
    expected = sampler.images(single(load_denoiser(pipeline / "unet"), CPU), SeedBlock.EVALUATION, 0, 4)
    assert torch.equal(next(read_images(empty_folder / "out", 4)), expected)


# Held-out loss on the ranges


def test_the_loss_of_a_denoiser_that_says_nothing_is_that_of_the_noise(digits: torch.Tensor) -> None:
    ranges = TimestepRanges.equal(4, 1000)
    schedule = DDPMScheduler(**SCHEDULE)
    losses = range_losses(image_losses(lambda x, t: torch.zeros_like(x), schedule, Pixels(digits), ranges, 4, CPU))
    assert losses == pytest.approx([1.0] * 4, abs=0.05)


def test_a_denoiser_is_asked_on_each_range_for_its_timesteps_alone(digits: torch.Tensor) -> None:
    ranges, seen = TimestepRanges((0, 10, 500, 1000)), []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    range_losses(image_losses(denoise, DDPMScheduler(**SCHEDULE), Pixels(digits), ranges, 5, CPU))
    for i, t in enumerate(seen, 1):
        low, high = ranges.range(i)
        assert low <= t.min()
        assert t.max() < high
        assert len(t) == 5 * 64
    assert len(seen) == 3
    shares = torch.histc(seen[2].double(), bins=5, min=500, max=1000)
    assert shares.tolist() == [64] * 5  # stratified


def test_every_model_meets_the_same_noise(pipeline: Path, digits: torch.Tensor) -> None:
    schedule, ranges = load_noise_schedule(pipeline), TimestepRanges.equal(2, 1000)
    denoise = single(load_denoiser(pipeline / "unet"), CPU)
    first, again = (range_losses(image_losses(denoise, schedule, Pixels(digits), ranges, 2, CPU)) for _ in range(2))
    assert first == again
    assert first[0] != first[1]


def test_a_loss_that_is_not_finite_is_refused_with_its_model_and_range(digits: torch.Tensor) -> None:
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t[:, None, None, None] == t.max(), math.nan if t.max() >= 500 else 0.0, x)

    ranges = TimestepRanges.equal(2, 1000)
    with pytest.raises(InputError, match=r"^expert 1: its loss on range 2, timesteps \[500, 1000\), is not finite"):
        range_losses(image_losses(denoise, DDPMScheduler(**SCHEDULE), Pixels(digits), ranges, 2, CPU, "expert 1"))


def test_an_empty_held_out_part_has_no_loss(digits: torch.Tensor) -> None:
    ranges = TimestepRanges.equal(2, 1000)
    losses = range_losses(image_losses(fake, DDPMScheduler(**SCHEDULE), Pixels(digits[:0]), ranges, 2, CPU))
    assert len(losses) == 2
    assert all(map(math.isnan, losses))


def test_unfinished_work_is_found_by_another_process_whatever_the_hash_of_its_strings(tmp_path: Path) -> None:
    """A scheduler's config that names few of its keys: diffusers then notes the others, in the order of a set."""
    config = write_pipeline(tmp_path / "pipeline") / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}))
    code = (
        "import json, sys; from pathlib import Path; from deme_core.checkpoints import *;"
        "print(json.dumps(schedule_identity(load_noise_schedule(Path(sys.argv[1])))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pipeline")], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
    assert json.loads(found.pop())["num_train_timesteps"] == 1000
