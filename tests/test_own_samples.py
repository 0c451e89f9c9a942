"""Direction `self`: own samples on seeds of their own, a plain finetune on them, and a search that leads away."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import sampler_params, training_params

from deme_core.checkpoints import WEIGHTS, denoiser_dir, load_denoiser
from deme_core.data.archive import read_images, read_protocol
from deme_core.data.examples import Pixels
from deme_core.data.images import load_part
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.merging.away import AwayParams
from deme_core.merging.task_vectors import vector_files, write_task_vector, write_task_vectors
from deme_core.sampling.generate import Sampler
from deme_core.sampling.sample import sample_model
from deme_core.sampling.settings import OwnParams
from deme_core.seeds import SeedBlock
from deme_core.tensors import read_recipe, read_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import finetune_each
from deme_core.training.own_samples import own_jobs, save_own_parts

CPU = torch.device("cpu")


def test_own_samples_come_from_their_own_seeds_another_training_seed_has_others(
    pipeline: Path, empty_folder: Path
) -> None:
    settings, params = OwnParams(images=20, ranges=1), sampler_params(block=4)
    assert (settings.validation, settings.whole, settings.first(0), settings.first(3)) == (2, 22, 0, 66)
    sample_model(pipeline, pipeline, params, settings.whole, empty_folder / "a", (), SeedBlock.OWN, settings.first(1))
    found = torch.cat(list(read_images(empty_folder / "a", settings.whole)))
    sampler = Sampler.of(pipeline, params, CPU)
    denoise = single(load_denoiser(denoiser_dir(pipeline)), CPU)
    assert torch.equal(found, sampler.images(denoise, SeedBlock.OWN, 22, 22))
    assert not torch.equal(found, sampler.images(denoise, SeedBlock.EVALUATION, 22, 22))
    assert read_protocol(empty_folder / "a")["seed_block"] == "OWN"


def test_the_last_own_samples_are_kept_from_the_training(empty_folder: Path) -> None:
    pixels = torch.arange(11, dtype=torch.uint8).view(11, 1, 1, 1)
    save_own_parts(iter(pixels.split(4)), 11, 2, (), 0, empty_folder)
    train, validation = (load_part(empty_folder, part) for part in ("train", "validation"))
    assert train.pixels.flatten().tolist() == list(range(9))
    assert validation.pixels.flatten().tolist() == [9, 10]
    assert train.captions is None


def test_own_samples_keep_the_captions_that_they_were_made_with(empty_folder: Path) -> None:
    """Sample k of the seed block has prompt k modulo their number, wherever the samples begin."""
    save_own_parts(iter([torch.zeros(4, 1, 1, 1, dtype=torch.uint8)]), 4, 1, ("a", "b", "c"), 5, empty_folder)
    assert load_part(empty_folder, "train").prompts == ("c", "a", "b")
    assert load_part(empty_folder, "validation").prompts == ("c",)


def test_own_samples_are_never_all_in_memory(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deme_core.data.images.IN_MEMORY", 10)  # larger sets lie in a file
    made: list[weakref.ref] = []

    def archives() -> Iterator[torch.Tensor]:
        for k in range(10):
            part = torch.full((10, 1, 8, 8), k, dtype=torch.uint8)
            made.append(weakref.ref(part))
            yield part
            del part
            assert sum(one() is not None for one in made) <= 2

    save_own_parts(archives(), 100, 10, (), 0, empty_folder)
    assert len(made) == 10
    for part, numbers in (("train", range(9)), ("validation", [9])):
        assert load_part(empty_folder, part).pixels[:, 0, 0, 0].tolist() == [k for k in numbers for _ in range(10)]


def test_so_few_own_samples_that_one_is_for_validation_are_refused() -> None:
    assert OwnParams(images=20, ranges=1).validation == 2
    with pytest.raises(InputError, match=r"^params: own_samples\.images = 19: must be at least 20: .* no interval$"):
        OwnParams(images=19, ranges=1)


def test_the_finetune_is_plain_and_gives_a_task_vector(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    """The teacher and the projection of the params are DeMe's: with other ones the bytes are the same."""
    files = []
    for name, changes in (("a", {}), ("b", {"consistency": 0.0, "projection": "none"})):
        jobs = own_jobs(TimestepRanges.equal(1, 1000), 0.4, training_params(**changes), 0)
        finetune_each(jobs, pipeline, Pixels(digits), tmp_path / name, checkpoints=tmp_path / "work")
        files.append(tmp_path / name / "1" / WEIGHTS)
    weights = [load_denoiser(file.parent).state_dict() for file in files]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    recipe = read_recipe(files[0])
    assert (recipe["direction"], recipe["bounds"], recipe["p"]) == ("self", [0, 1000], 0.4)
    write_task_vector(denoiser_dir(pipeline), files[0].parent, tmp_path / "1.safetensors")
    assert read_recipe(tmp_path / "1.safetensors")["direction"] == "self"


def test_each_range_has_a_finetune_of_its_own(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    jobs = own_jobs(TimestepRanges.equal(2, 1000), 0.0, training_params(), 0)
    curves = finetune_each(jobs, pipeline, Pixels(digits), tmp_path / "own", checkpoints=tmp_path / "work")
    write_task_vectors(denoiser_dir(pipeline), tmp_path / "own", len(curves))
    files = vector_files(tmp_path / "own")
    recipes = [read_recipe(file) for file in files]
    assert [(recipe["bounds"], recipe["range"]) for recipe in recipes] == [([0, 500, 1000], 1), ([0, 500, 1000], 2)]
    one, two = (read_tensors(file) for file in files)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_a_step_that_nobody_searched_is_shared_by_the_vectors() -> None:
    assert AwayParams(w=0.5).weights(2) == [-0.25, -0.25]
    for w in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"^params: away.w = .*: must be a finite number above 0"):
            AwayParams(w=w)
