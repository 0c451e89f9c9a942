"""Sampling and features on a GPU: no step waits, half precision is near, what overflows is named. `pytest -m gpu`."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import sampler_params, synchronisation_is_an_error
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import load_denoiser
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline
from deme_core.metrics.features import load_extractor
from deme_core.sampling.conditions import guided
from deme_core.sampling.generate import Sampler, ensemble
from deme_core.sampling.schedulers import make_scheduler
from deme_core.seeds import SeedBlock
from deme_core.timesteps import TimestepRanges

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    import_pipeline(write_stable_diffusion(folder / "hub"), folder / "pipeline")
    return folder / "pipeline"


def loop(sampler: Sampler, denoise: Callable) -> None:
    """All steps of one block."""
    scheduler = make_scheduler(sampler.noise_schedule, sampler.params)
    sampler.denoised(denoise, scheduler, torch.zeros(sampler.params.block, *sampler.shape, device=CUDA), [])


def without_a_wait(sampler: Sampler, denoise: Callable) -> None:
    """The steps of a block, of which none may wait for the GPU; the first time they may: libraries are set up then."""
    with torch.inference_mode():
        loop(sampler, denoise)
        with synchronisation_is_an_error():
            loop(sampler, denoise)


@pytest.mark.parametrize("kind", ["ddim", "pndm", "dpm_solver"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_no_step_waits_for_the_gpu(pipeline: Path, kind: str, dtype: str) -> None:
    """The ddpm sampler is left out: the noise of its steps comes from the generators of the images, on the CPU."""
    sampler = Sampler.of(pipeline, sampler_params(kind=kind, steps=4, dtype=dtype), CUDA)
    without_a_wait(sampler, single(load_denoiser(pipeline / "unet"), CUDA))


def test_no_step_of_the_ensemble_waits_for_the_gpu(pipeline: Path) -> None:
    sampler = Sampler.of(pipeline, sampler_params(steps=4), CUDA)
    models = [load_denoiser(pipeline / "unet") for _ in range(2)]
    without_a_wait(sampler, ensemble(models, TimestepRanges.equal(2, 1000), CUDA))


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_no_step_with_a_prompt_waits_for_the_gpu(sd: Path, guidance: float) -> None:
    sampler = Sampler.of(sd, sampler_params(kind="pndm", steps=4, guidance=guidance), CUDA, ["digit 1", "digit 2"])
    condition, blank = sampler.conditions.of(range(4)), sampler.conditions.blank(4)
    without_a_wait(sampler, guided(single(load_denoiser(sd / "unet"), CUDA), condition, blank, guidance))


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "pndm", "dpm_solver"])
def test_images_are_near_those_of_a_cpu(pipeline: Path, kind: str) -> None:
    images = []
    for device in (CPU, CUDA):
        sampler = Sampler.of(pipeline, sampler_params(kind=kind), device)
        images.append(sampler.images(single(load_denoiser(pipeline / "unet"), device), SeedBlock.SEARCH, 0, 12))
    assert (images[0].int() - images[1].int()).abs().double().mean() < 1


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "pndm", "dpm_solver"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_finite_images_near_float32s(pipeline: Path, kind: str, dtype: str) -> None:
    """A number that is not finite would have been refused."""
    images = []
    for precision in ("float32", dtype):
        sampler = Sampler.of(pipeline, sampler_params(kind=kind, dtype=precision), CUDA)
        images.append(sampler.images(single(load_denoiser(pipeline / "unet"), CUDA), SeedBlock.SEARCH, 0, 12))
    assert 0 < (images[0].int() - images[1].int()).abs().double().mean() < 8
    assert len(images[1].unique()) > 20


def test_half_precision_with_prompts_gives_finite_images_near_float32s(sd: Path) -> None:
    images = []
    for precision in ("float32", "float16", "bfloat16"):
        params = sampler_params(kind="pndm", steps=4, guidance=4.0, dtype=precision)
        sampler = Sampler.of(sd, params, CUDA, ["digit 1", "digit 2"])
        images.append(sampler.images(single(load_denoiser(sd / "unet"), CUDA), SeedBlock.SEARCH, 0, 8))
    for half in images[1:]:
        assert (images[0].int() - half.int()).abs().double().mean() < 8


def test_an_overflow_on_the_gpu_is_named_with_its_step(pipeline: Path) -> None:
    denoise, calls = single(load_denoiser(pipeline / "unet"), CUDA), itertools.count(1)

    def breaking(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoise(x, t) * (float("inf") if next(calls) == 3 else 1.0)

    sampler = Sampler.of(pipeline, sampler_params(steps=5, dtype="float16"), CUDA)
    with pytest.raises(InputError, match=r"^m400: its prediction at step 3 of 5 \(t = 400\) is not finite .*=float32"):
        sampler.images(breaking, SeedBlock.SEARCH, 0, 4, lambda t: f"m{t}")


def test_workers_prepare_what_the_gpu_sees_next(rgb_extractor: Path) -> None:
    on_cpu = load_extractor(str(rgb_extractor))  # of a network that stays on the CPU
    pixels = torch.randint(0, 256, (130, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    weights = torch.randn(3 * 20 * 20, 5, generator=torch.Generator().manual_seed(1)).to(CUDA)
    threads: set[int] = set()

    def prepare(images: torch.Tensor) -> torch.Tensor:
        threads.add(threading.get_ident())
        return images.flatten(1).float() / 255

    extractor = replace(on_cpu, forward=lambda x: x.to(CUDA) @ weights, block=50, prepare=prepare, device=CUDA)
    expected = pixels.flatten(1).float() / 255 @ weights.cpu()
    torch.testing.assert_close(torch.from_numpy(extractor(pixels.split(33))), expected, rtol=1e-3, atol=1e-2)
    assert threading.get_ident() not in threads
