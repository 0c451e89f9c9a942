"""Baselines that are trained: as many steps as all experts, none of DeMe's techniques, the same bytes again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from baseline_trainings import FINETUNED, RANGES, Trainings, W, baseline
from conftest import N, files_of, training_params

from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule
from deme_core.data import examples
from deme_core.data.examples import Pixels
from deme_core.merging.merge import write_merged
from deme_core.merging.task_vectors import vector_files, write_task_vector
from deme_core.projection import projection_keys
from deme_core.tensors import read_recipe, read_tensors, weights_hash
from deme_core.training import batches as micro_batches
from deme_core.training.baselines import BaselineParams, baseline_jobs
from deme_core.training.finetune import expert_job, finetune


def batches(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Fills with the images of each step, in the order of training."""
    seen: list[torch.Tensor] = []
    to_model = examples.to_model
    monkeypatch.setattr(examples, "to_model", lambda pixels: seen.append(pixels) or to_model(pixels))
    return seen


# Members and steps


@pytest.mark.parametrize("name", FINETUNED)
def test_a_baseline_makes_the_steps_of_all_experts_together(
    name: str, pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []
    draw = micro_batches.draw_timesteps

    def seen(n: int, span: tuple[int, int], T: int, p: float, **options: Any) -> torch.Tensor:
        draws.append((n, span, T, p))
        return draw(n, span, T, p, **options)

    monkeypatch.setattr(micro_batches, "draw_timesteps", seen)
    curves = baseline(name, pipeline, digits, tmp_path / "out")
    members, steps = (N, 4) if name == "soup_full_range" else (1, 4 * N)
    assert [[row["step"] for row in curve] for curve in curves] == [list(range(2, steps + 1, 2))] * members
    assert draws == [(8, (0, 1000), 1000, 0.0)] * 4 * N  # uniform over all timesteps, in each of as many steps
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == [str(k) for k in range(1, members + 1)]
    base = read_tensors(pipeline / "unet" / WEIGHTS)
    for folder in folders:
        tensors = read_tensors(tmp_path / "out" / folder / WEIGHTS)
        assert tensors.keys() == base.keys()
        assert not any(torch.equal(tensors[key], base[key]) for key in base)


@pytest.mark.parametrize("name", FINETUNED)
def test_a_full_range_baseline_has_neither_teacher_nor_projection(
    name: str, pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`loss_equivalent` keeps both: it differs from the merge in being one training alone."""
    trainings = Trainings(monkeypatch)
    baseline(name, pipeline, digits, tmp_path / "out")
    kept = name == "loss_equivalent"
    common, base = training_params(), load_denoiser(pipeline / "unet").num_parameters()
    assert len(trainings.jobs) == (N if name == "soup_full_range" else 1)
    for job, teacher, weights in zip(trainings.jobs, trainings.teachers, trainings.weights, strict=True):
        params = job.settings
        assert (teacher is not None) == (weights > base) == kept
        assert (params.consistency, params.projection) == ((1.0, "foldable") if kept else (0.0, "none"))
        for key in ("batch_size", "learning_rate", "lr_schedule", "ema_decay", "weight_decay", "max_grad_norm"):
            assert getattr(params, key) == getattr(common, key)


def test_a_longer_baseline_has_the_schedule_of_an_expert_over_its_length(pipeline: Path) -> None:
    rules = {"lr_schedule": "piecewise_constant", "lr_steps": "1:8,0.1", "lr_warmup": 4}
    expert = expert_job(RANGES, 1, 0.4, training_params(**rules), 0)
    schedule, special = load_noise_schedule(pipeline), BaselineParams(gamma=5.0)
    for name in FINETUNED:
        for job in baseline_jobs(name, expert, schedule, special, [0.5] * N):
            times = job.settings.iterations // expert.settings.iterations
            assert times == (1 if name == "soup_full_range" else N)
            assert (job.settings.lr_steps, job.settings.lr_warmup) == (f"1:{8 * times},0.1", 4 * times)


def test_baselines_are_different_models(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    for name in FINETUNED:
        baseline(name, pipeline, digits, tmp_path / name)
    hashes = [weights_hash(file) for file in sorted(tmp_path.glob(f"*/*/{WEIGHTS}"))]
    assert len(hashes) == len(set(hashes)) == len(FINETUNED) + N - 1


# The soup and the single finetune


def test_members_of_the_soup_differ_in_their_seed_and_order_of_data(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, trainings = batches(monkeypatch), Trainings(monkeypatch)
    baseline("soup_full_range", pipeline, digits, tmp_path / "a", iterations=8)  # 8 batches of 8: one epoch each
    baseline("soup_full_range", pipeline, digits, tmp_path / "b", iterations=8, seed=1)
    epochs = [torch.cat(seen[k : k + 8]) for k in range(0, 32, 8)]
    orders = {epoch.numpy().tobytes() for epoch in epochs}
    assert len(orders) == len({job.seed for job in trainings.jobs}) == 4
    whole = sorted(map(tuple, digits.flatten(1).tolist()))
    assert all(sorted(map(tuple, epoch.flatten(1).tolist())) == whole for epoch in epochs)
    files = sorted(tmp_path.glob(f"[ab]/*/{WEIGHTS}"))
    assert len({weights_hash(file) for file in files}) == 4
    assert [read_recipe(file)["member"] for file in files] == [1, 2, 1, 2]
    assert [read_recipe(file)["seed"] for file in files] == [0, 0, 1, 1]


def test_a_single_finetune_sees_the_images_of_an_expert(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = batches(monkeypatch)
    expert = expert_job(RANGES, 1, 0.4, training_params(iterations=4), 3)
    finetune(expert, pipeline, Pixels(digits), tmp_path / "1", checkpoints=tmp_path / "work")
    baseline("full_range", pipeline, digits, tmp_path / "out", seed=3)
    assert len(seen) == 4 + 4 * N
    assert torch.equal(torch.cat(seen[:4]), torch.cat(seen[4:8]))


def test_the_soup_is_the_mean_of_its_members(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    baseline("soup_full_range", pipeline, digits, tmp_path / "out")
    for k in range(1, N + 1):
        write_task_vector(pipeline / "unet", tmp_path / "out" / str(k), tmp_path / "out" / f"{k}.safetensors")
    write_merged(pipeline, vector_files(tmp_path / "out"), [1 / N] * N, tmp_path / "soup", {})
    members = [read_tensors(tmp_path / "out" / str(k) / WEIGHTS) for k in range(1, N + 1)]
    for key, value in read_tensors(tmp_path / "soup" / "unet" / WEIGHTS).items():
        torch.testing.assert_close(value, sum(member[key] for member in members) / N, rtol=1e-5, atol=1e-6)


# Bytes and recipes


@pytest.mark.parametrize("name", ["min_snr", "soup_full_range", "loss_equivalent"])
def test_a_baseline_trained_again_is_byte_identical(
    name: str, pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    first = baseline(name, pipeline, digits, tmp_path / "a", work="work-a")
    assert baseline(name, pipeline, digits, tmp_path / "b", work="work-b") == first
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_baseline_carries_its_recipe_and_leaves_the_base_alone(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    before = files_of(pipeline)
    baseline("loss_equivalent", pipeline, digits, tmp_path / "out")
    assert files_of(pipeline) == before
    recipe = read_recipe(tmp_path / "out" / "1" / WEIGHTS)
    assert recipe["base_sha256"] == weights_hash(pipeline / "unet" / WEIGHTS)
    assert (recipe["baseline"], recipe["merge_weights"], recipe["gamma"]) == ("loss_equivalent", W, 5.0)
    assert (recipe["bounds"], recipe["range"], recipe["p"], recipe["seed"]) == ([0, 1000], 1, 0.0, 0)
    assert recipe["finetune_range"]["iterations"] == 4 * N


def test_projections_of_the_loss_equivalent_are_folded(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    baseline("loss_equivalent", pipeline, digits, tmp_path / "out")
    assert projection_keys(load_denoiser(tmp_path / "out" / "1").state_dict()) == []
