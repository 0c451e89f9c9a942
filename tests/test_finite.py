"""Numbers that are not finite end a sampling in one line."""

import itertools
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import sampler_params
from diffusers import DDPMScheduler
from sampled import CPU, SCHEDULE

from deme_core.checkpoints import load_denoiser, save_denoiser, weights_file
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.sampling.generate import Sampler
from deme_core.sampling.sample import sample_model, write_missing
from deme_core.seeds import SeedBlock
from deme_core.tensors import read_recipe


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
