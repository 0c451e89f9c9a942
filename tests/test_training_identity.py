"""Which trainings are one and the same: what tells them apart, and what an expert carries of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import edit_config, files_of, job_of, training_params, write_pipeline
from trained import RANGES, train_expert

from deme_core.checkpoints import WEIGHTS
from deme_core.data.examples import Pixels
from deme_core.tensors import read_recipe, weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.job import Job


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 2e-3}, {"consistency": 0.5}, {"projection": "none"}, {"batch_size": 4}, {"i": 2}]
)
def test_another_training_never_finds_the_state(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train_expert(pipeline, digits, tmp_path / "a")
    train_expert(pipeline, digits, tmp_path / "b", **changes)
    assert len(list((tmp_path / "work").iterdir())) == 2
    assert files_of(tmp_path / "a")[WEIGHTS] != files_of(tmp_path / "b")[WEIGHTS]


def test_other_images_and_another_base_are_another_training(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    train_expert(pipeline, digits, tmp_path / "a")
    train_expert(pipeline, digits.flip(-1), tmp_path / "b")
    train_expert(write_pipeline(tmp_path / "other", seed=1), digits, tmp_path / "c")
    assert len(list((tmp_path / "work").iterdir())) == 3


def test_another_noise_schedule_is_another_training(digits: torch.Tensor, tmp_path: Path) -> None:
    for name, kind in (("a", "epsilon"), ("b", "sample")):
        train_expert(write_pipeline(tmp_path / f"{name}-base", prediction_type=kind), digits, tmp_path / name)
    assert files_of(tmp_path / "a")[WEIGHTS] != files_of(tmp_path / "b")[WEIGHTS]


def test_another_config_of_the_denoiser_is_another_training(
    pipeline_copy: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    """The same weights compute something else with it."""
    train_expert(pipeline_copy, digits, tmp_path / "a")
    edit_config(pipeline_copy / "unet", flip_sin_to_cos=False)
    train_expert(pipeline_copy, digits, tmp_path / "b")
    assert len(list((tmp_path / "work").iterdir())) == 2
    assert files_of(tmp_path / "a")[WEIGHTS] != files_of(tmp_path / "b")[WEIGHTS]
    assert read_recipe(tmp_path / "a" / WEIGHTS) == read_recipe(tmp_path / "b" / WEIGHTS)


def test_the_expert_carries_its_recipe_and_leaves_the_base_alone(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    before = files_of(pipeline)
    train_expert(pipeline, digits, tmp_path / "out", i=2)
    assert files_of(pipeline) == before
    assert sorted(files_of(tmp_path / "out")) == ["config.json", WEIGHTS]
    recipe = read_recipe(tmp_path / "out" / WEIGHTS)
    assert recipe["base_sha256"] == weights_hash(pipeline / "unet" / WEIGHTS)
    assert (recipe["bounds"], recipe["range"], recipe["p"], recipe["seed"]) == ([0, 500, 1000], 2, 0.4, 0)
    assert recipe["finetune_range"]["iterations"] == 12


def test_every_field_of_a_job_is_part_of_its_identity(digits: torch.Tensor) -> None:
    job = job_of(training_params())
    changes = {
        "label": "other", "ranges": TimestepRanges.equal(3, 1000), "i": 2, "p": 0.5, "seed": 1,
        "settings": training_params(batch_size=4), "loss_weights": torch.ones(1000), "facts": {"direction": "self"},
    }  # fmt: skip
    assert changes.keys() == Job.__dataclass_fields__.keys()
    jobs = [job, *(replace(job, **{name: value}) for name, value in changes.items())]
    found = [other.identity(Pixels(digits)) for other in jobs] + [job.identity(Pixels(digits.flip(-1)))]
    assert len({json.dumps(identity) for identity in found}) == len(changes) + 2


def test_training_seeds_and_ranges_draw_differently(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    params = training_params(iterations=4)
    curves = [
        finetune(
            expert_job(RANGES, i, 0.4, params, seed), pipeline, Pixels(digits), tmp_path / "out",
            checkpoints=tmp_path / "work",
        )
        for i, seed in ((1, 0), (2, 0), (1, 1))
    ]  # fmt: skip
    assert len({json.dumps(curve) for curve in curves}) == 3
