"""Sampling, losses, features and latents in workers: shared out in blocks, the same bytes for any number of workers."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysed import analyse_params
from conftest import files_of, sampler_params
from sampled import fake, fake_sampler
from text_to_image import write_stable_diffusion

from deme_core.analysis.group_gradients import gradient_products
from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.components import Autoencoder, TextEncoder
from deme_core.data.archive import PER_ARCHIVE, read_images
from deme_core.data.examples import Pixels
from deme_core.data.images import to_model
from deme_core.denoising import single
from deme_core.hub_layouts import import_pipeline
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.features import load_extractor
from deme_core.parallel import in_order, torch_threads
from deme_core.sampling.generate import Sampler
from deme_core.sampling.sample import write_missing
from deme_core.seeds import SeedBlock
from deme_core.timesteps import TimestepRanges
from deme_core.training.range_losses import image_losses, range_losses

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORKERS = (1, 2, 4)


def for_each_number(compute: Callable[[], Any]) -> list[Any]:
    """What is computed with 1, 2 and 4 workers."""
    found = []
    for count in WORKERS:
        torch.set_num_threads(count)
        found.append(compute())
        assert torch.get_num_threads() == count
    return found


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    import_pipeline(write_stable_diffusion(folder / "hub"), folder / "pipeline")
    return folder / "pipeline"


@pytest.mark.parametrize(
    "changes",
    [{"kind": "ddim"}, {"kind": "ddpm"}, {"kind": "pndm"}, {"kind": "dpm_solver"}, {"dtype": "float16"}],
    ids=str,
)
def test_images_are_the_same_for_any_number_of_workers(pipeline: Path, changes: dict[str, str]) -> None:
    sampler = Sampler.of(pipeline, sampler_params(**changes), CPU)
    denoise = single(load_denoiser(pipeline / "unet"), CPU)
    one, *others = for_each_number(lambda: sampler.images(denoise, SeedBlock.SEARCH, 3, 18))
    assert len({image.numpy().tobytes() for image in one}) == 18
    assert all(torch.equal(one, other) for other in others)


def test_images_of_prompts_are_the_same_for_any_number_of_workers(sd: Path) -> None:
    prompts = [f"digit {k}" for k in range(10)]
    sampler = Sampler.of(sd, sampler_params(kind="pndm", steps=2, guidance=4.0, block=2), CPU, prompts)
    denoise = single(load_denoiser(sd / "unet"), CPU)
    one, *others = for_each_number(lambda: sampler.images(denoise, SeedBlock.EVALUATION, 1, 10))
    assert all(torch.equal(one, other) for other in others)


def test_prompts_are_read_by_one_worker_at_a_time(sd: Path) -> None:
    """A fast tokenizer sets padding and truncation in itself: some versions refuse a second thread meanwhile."""
    encoder, texts = TextEncoder(sd, CPU), [["digit 1"], ["digit 2"]]
    expected, tokenizer, both, met = list(map(encoder, texts)), encoder.tokenizer, threading.Barrier(2), []

    def tokenize(*args: Any, **options: Any) -> Any:
        try:
            met.append(both.wait(0.3))
        except threading.BrokenBarrierError:  # nobody else came
            both.reset()
        return tokenizer(*args, **options)

    encoder.tokenizer = tokenize
    torch.set_num_threads(2)
    assert all(map(torch.equal, in_order(encoder, texts), expected))
    assert met == []


def test_archives_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    """Three archives, whose blocks are no parts of them; the first is there already."""
    sampler, images = fake_sampler(block=300), 2 * PER_ARCHIVE + 100
    folders = iter([tmp_path / str(count) for count in WORKERS])

    def write() -> dict[str, str]:
        write_missing(sampler, fake, PER_ARCHIVE, folder := next(folders))
        write_missing(sampler, fake, images, folder)
        found = torch.cat(list(read_images(folder, images)))
        assert torch.equal(found, sampler.images(fake, SeedBlock.EVALUATION, 0, images))
        return files_of(folder)

    one, *others = for_each_number(write)
    assert list(one) == ["0000.zip", "0001.zip", "0002.zip"]
    assert all(one == other for other in others)


def test_losses_are_the_same_for_any_number_of_workers(pipeline: Path, digits: torch.Tensor) -> None:
    schedule, ranges = load_noise_schedule(pipeline), TimestepRanges((0, 100, 1000))
    denoise = single(load_denoiser(pipeline / "unet"), CPU)
    one, *others = for_each_number(lambda: image_losses(denoise, schedule, Pixels(digits), ranges, 16, CPU).tolist())
    assert others == [one, one]


def test_gradients_are_the_same_for_any_number_of_workers(pipeline: Path, digits: torch.Tensor) -> None:
    schedule, spans = load_noise_schedule(pipeline), [(0, 100), (100, 1000)]
    params, model = analyse_params(groups=3, batch_size=8), load_denoiser(pipeline / "unet")

    def products() -> np.ndarray:
        with torch_threads(1):  # as in a stage
            return gradient_products(model, schedule, Pixels(digits), spans, 600, params, CPU).whole

    one, *others = for_each_number(products)
    assert all(np.array_equal(one, other) for other in others)


def test_features_are_the_same_for_any_number_of_workers(extractor_dir: Path, digits: torch.Tensor) -> None:
    extractor = load_extractor(str(extractor_dir))
    many = digits.repeat(40, 1, 1, 1)
    one, *others = for_each_number(lambda: extractor(many.split(77)))
    assert all(np.array_equal(one, other) for other in others)


def test_latents_are_the_same_for_any_number_of_workers(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deme_core.components.PIXELS", 16 * 16 * 2)  # two images at once
    vae = Autoencoder(sd, CPU)
    x = to_model(torch.randint(0, 256, (9, 1, 16, 16), generator=torch.Generator().manual_seed(0)))
    for compute in (lambda: torch.cat(vae.moments(x)), lambda: vae.decode(torch.ones(9, 4, 8, 8) * x[:, :, :8, :8])):
        one, *others = for_each_number(compute)
        assert len(one) in (9, 18)
        assert all(torch.equal(one, other) for other in others)


# Blocks are what is shared out


def test_blocks_are_sampled_at_the_same_time_each_on_one_core() -> None:
    torch.set_num_threads(2)
    together, threads = threading.Barrier(2, timeout=30), set()

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        together.wait()
        threads.add(torch.get_num_threads())
        return fake(x, t)

    assert fake_sampler().images(denoise, SeedBlock.SEARCH, 0, 16).shape == (16, 1, 2, 2)
    assert threads == {1}


def test_batches_of_losses_are_computed_at_the_same_time(pipeline: Path, digits: torch.Tensor) -> None:
    torch.set_num_threads(2)
    together = threading.Barrier(2, timeout=30)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        together.wait()
        return torch.zeros_like(x)

    ranges = TimestepRanges.equal(2, 1000)  # one batch each
    assert len(range_losses(image_losses(denoise, load_noise_schedule(pipeline), Pixels(digits), ranges, 1, CPU))) == 2


def test_an_extractor_for_a_gpu_has_its_next_images_prepared_meanwhile() -> None:
    """The network, which here only believes that it is on a GPU, is called in this thread; it waits for the others."""
    prepared, here = threading.Semaphore(0), threading.get_ident()

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        assert threading.get_ident() != here
        for _ in pixels:
            prepared.release()
        return pixels.float().flatten(1) + 1

    def forward(x: torch.Tensor) -> torch.Tensor:
        assert threading.get_ident() == here
        sizes.append(len(x))
        if len(sizes) == 1:  # the second block is ready while the first is computed
            assert all(prepared.acquire(timeout=30) for _ in range(40))
        return 2 * x

    images = torch.arange(45, dtype=torch.uint8).reshape(45, 1, 1, 1)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        sizes: list[int] = []
        features = Extractor("any", "0", forward, 20, prepare, CUDA)(images.split(7))
        assert features.tolist() == [[2.0 * (k + 1)] for k in range(45)]
        assert sizes == [20, 20, 5]
    assert Extractor("any", "0", lambda x: x.flatten(1), 20)(images.split(7)).tolist() == [[k] for k in range(45)]
