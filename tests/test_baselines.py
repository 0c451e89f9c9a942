"""Baselines that are trained: as many steps as all experts, none of DeMe's techniques, weights that reach the loss."""

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import N, files_of, job_of, never, search_result, training_params, write_pipeline

from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule
from deme_core.dag import BASELINES
from deme_core.data import examples
from deme_core.data.examples import Pixels
from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.merging.task_vectors import vector_files, write_task_vector
from deme_core.params import read
from deme_core.projection import projection_keys
from deme_core.tensors import read_recipe, read_tensors, weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training import batches as micro_batches
from deme_core.training import loop
from deme_core.training.baselines import BaselineParams, baseline_jobs, check_baselines
from deme_core.training.finetune import expert_job, finetune, finetune_each
from deme_core.training.job import Curve, Job
from deme_core.training.weighting import WEIGHTINGS, merge_equivalent_weights, weighting

ROOT = Path(__file__).parents[1]
RANGES = TimestepRanges.equal(N, 1000)
FINETUNED = [baseline for baseline in BASELINES if baseline != "soup_greedy"]
W = [0.5, 0.25]


def baseline(
    name: str, pipeline: Path, digits: torch.Tensor, out: Path, *, work: str = "work", seed: int = 0, p: float = 0.4,
    gamma: float = 5.0, merge_weights: list[float] | None = None, **changes: Any,
) -> list[Curve]:  # fmt: skip
    """4 steps of an expert, unless changed."""
    expert = expert_job(RANGES, 1, p, training_params(**{"iterations": 4} | changes), seed)
    weights = merge_weights or (W if name == "loss_equivalent" else None)
    jobs = baseline_jobs(name, expert, load_noise_schedule(pipeline), BaselineParams(gamma=gamma), weights)
    return finetune_each(jobs, pipeline, Pixels(digits), out, checkpoints=out.parent / work)


class Trainings:
    """Stands before `train` and keeps what each training was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.teachers: list[torch.nn.Module | None] = []
        self.weights: list[int] = []
        train = loop.train

        def seen(student: torch.nn.Module, schedule: Any, data: Any, job: Job, state: Path, teacher: Any) -> Curve:
            self.jobs.append(job)
            self.teachers.append(teacher)
            self.weights.append(sum(parameter.numel() for parameter in student.parameters()))
            return train(student, schedule, data, job, state, teacher=teacher)

        monkeypatch.setattr(loop, "train", seen)


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

    def seen(n: int, own: tuple[int, int], T: int, p: float, **options: Any) -> torch.Tensor:
        draws.append((n, own, T, p))
        return draw(n, own, T, p, **options)

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


@pytest.mark.parametrize("name", FINETUNED)
def test_each_baseline_has_its_weights_on_the_loss(
    name: str, pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(monkeypatch)
    baseline(name, pipeline, digits, tmp_path / "out", gamma=2.0)
    if name in WEIGHTINGS:
        expected = weighting(name, load_noise_schedule(pipeline), 2.0)
    else:
        expected = merge_equivalent_weights(RANGES, 0.4, W) if name == "loss_equivalent" else None
    assert len(trainings.jobs) == (N if name == "soup_full_range" else 1)
    for job in trainings.jobs:
        assert (job.loss_weights is None) == (expected is None)
        assert expected is None or torch.equal(job.loss_weights, expected)


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


def test_p_changes_the_loss_equivalent_alone(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    for name in ("full_range", "min_snr", "loss_equivalent"):
        for p in (0.4, 0.9):
            baseline(name, pipeline, digits, tmp_path / f"{name}-{p}", p=p)
        same = files_of(tmp_path / f"{name}-0.4") == files_of(tmp_path / f"{name}-0.9")
        assert same == (name != "loss_equivalent")


# Weights on the loss


def finetune_weighted(
    pipeline: Path, digits: torch.Tensor, out: Path, loss_weights: torch.Tensor | None
) -> tuple[Curve, str]:
    """12 steps with a teacher: the curve and the hash of the weights."""
    job = job_of(training_params(), ranges=TimestepRanges.equal(1, 1000), loss_weights=loss_weights)
    curve = finetune(job, pipeline, Pixels(digits), out, checkpoints=out / "work")
    return curve, weights_hash(out / WEIGHTS)


def test_weights_of_1_are_no_weights(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    plain = finetune_weighted(pipeline, digits, tmp_path / "plain", None)
    assert finetune_weighted(pipeline, digits, tmp_path / "ones", torch.ones(1000)) == plain
    other = finetune_weighted(pipeline, digits, tmp_path / "other", torch.linspace(0, 2, 1000))
    assert other[1] != plain[1]
    assert [row["denoising"] for row in other[0]] != [row["denoising"] for row in plain[0]]


def test_equal_merge_weights_are_the_plain_loss_with_teacher(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(monkeypatch)
    baseline("loss_equivalent", pipeline, digits, tmp_path / "out", merge_weights=[0.5, 0.5])
    (job,) = trainings.jobs
    torch.testing.assert_close(job.loss_weights, torch.ones(1000, dtype=torch.float64))
    assert trainings.teachers != [None]


def test_other_merge_weights_and_another_gamma_are_another_training(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    baseline("loss_equivalent", pipeline, digits, tmp_path / "a")
    baseline("loss_equivalent", pipeline, digits, tmp_path / "b", merge_weights=[0.25, 0.5])
    baseline("min_snr", pipeline, digits, tmp_path / "c")
    baseline("min_snr", pipeline, digits, tmp_path / "d", gamma=1.0)
    assert len(list((tmp_path / "work").iterdir())) == 4
    assert len({files_of(tmp_path / name)[f"1/{WEIGHTS}"] for name in "abcd"}) == 4


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_without_merge_weights_the_loss_equivalent_is_the_base_and_nothing_is_trained(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, p: float
) -> None:
    monkeypatch.setattr(loop, "train", never)
    assert baseline("loss_equivalent", pipeline, digits, tmp_path / "out", merge_weights=[0.0, 0.0], p=p) == [[]]
    assert weights_hash(tmp_path / "out" / "1" / WEIGHTS) == weights_hash(pipeline / "unet" / WEIGHTS)
    assert not (tmp_path / "work").exists()


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


# What is refused


@pytest.mark.parametrize("name", ["snr_plus_one", "truncated_snr"])
def test_an_infinite_weight_stops_before_anything_is_trained(
    name: str, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", never)
    pipeline = write_pipeline(tmp_path / "base", rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match=f"baseline {name}: its weight on the noise loss is infinite at t = 999"):
        baseline(name, pipeline, digits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["snr_plus_one", "truncated_snr"])
def test_infinite_weights_are_refused_with_the_params(name: str, tmp_path: Path) -> None:
    noisy = write_pipeline(tmp_path / "noisy", rescale_betas_zero_snr=True)
    with pytest.raises(InputError) as refused:
        check_baselines(["full_range", name, "min_snr"], load_noise_schedule(noisy), BaselineParams(gamma=5.0))
    assert str(refused.value) == (
        f"baseline {name}: its weight on the noise loss is infinite at t = 999, where this schedule leaves no signal"
        " (SNR = 0); take it out of `baselines`, or start from a model with v-prediction"
    )


def test_baselines_of_finite_weights_pass(pipeline: Path, tmp_path: Path) -> None:
    check_baselines(BASELINES, load_noise_schedule(pipeline), BaselineParams(gamma=5.0))
    noisy = write_pipeline(tmp_path / "noisy", rescale_betas_zero_snr=True)
    check_baselines(
        [name for name in BASELINES if "snr" not in name or name == "min_snr"],
        load_noise_schedule(noisy),
        BaselineParams(gamma=5.0),
    )
    velocity = write_pipeline(tmp_path / "v", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    check_baselines(BASELINES, load_noise_schedule(velocity), BaselineParams(gamma=5.0))


def test_min_snr_trains_where_the_last_timestep_is_noise_alone(digits: torch.Tensor, tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path / "base", rescale_betas_zero_snr=True)
    (curve,) = baseline("min_snr", pipeline, digits, tmp_path / "out")
    assert all(0 < row["loss"] < 10 for row in curve)


def test_negative_merge_weights_stop_before_anything_is_trained(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train", never)
    with pytest.raises(InputError, match=r"baseline loss_equivalent: merge weights .* hold a negative one"):
        baseline("loss_equivalent", pipeline, digits, tmp_path / "out", merge_weights=[1.0, -0.5])
    assert not (tmp_path / "out").exists()


# The stage


def stage(
    name: str, pipeline: Path, digits: torch.Tensor, folder: Path, merge_weights: list[float], monkeypatch: Any
) -> list[dict[str, str]]:
    """Run stages/finetune_baseline.py in `folder`; the rows of its curve."""
    params = read(ROOT / "params.yaml")
    short = {"iterations": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 4}
    params |= {"N": N, "baselines": [name], "finetune_range": params["finetune_range"] | short}
    (folder / "params.yaml").write_text(json.dumps(params))
    search_result(merge_weights).write(folder / "result.json")
    for part in ("train", "validation"):
        save_part(folder / "data", part, Images(digits, torch.zeros(len(digits), dtype=torch.int64)))
    monkeypatch.chdir(folder)
    words = ["--baseline", name, "--pretrained", str(pipeline), "--examples", "data", "--search", "result.json"]
    monkeypatch.setattr(sys, "argv", ["finetune_baseline.py", *words, "--out", "out", "--curve", "curves/x.csv"])
    runpy.run_path(str(ROOT / "stages" / "finetune_baseline.py"), run_name="__main__")
    with (folder / "curves" / "x.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_stage_writes_denoisers_vectors_and_one_curve(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stage("soup_full_range", pipeline, digits, tmp_path, W, monkeypatch)
    assert [(row["member"], row["step"]) for row in rows] == [("1", "2"), ("1", "4"), ("2", "2"), ("2", "4")]
    assert all(float(row["denoising"]) > 0 for row in rows)
    vectors = vector_files(tmp_path / "out")
    assert len(vectors) == N
    base = read_tensors(pipeline / "unet" / WEIGHTS)
    for k, file in enumerate(vectors, 1):
        member = read_tensors(tmp_path / "out" / str(k) / WEIGHTS)
        assert all(torch.equal(tau, member[key] - base[key]) for key, tau in read_tensors(file).items())


def test_the_stage_takes_the_weights_that_the_search_found(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(monkeypatch)
    stage("loss_equivalent", pipeline, digits, tmp_path, [0.25, 1.0], monkeypatch)
    (job,) = trainings.jobs
    assert torch.equal(job.loss_weights, merge_equivalent_weights(RANGES, 0.4, [0.25, 1.0]))


def test_the_stage_writes_the_base_and_no_rows_where_there_is_no_loss(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage("loss_equivalent", pipeline, digits, tmp_path, [0.0, 0.0], monkeypatch) == []
    (vector,) = vector_files(tmp_path / "out")
    assert not any(bool(tau.any()) for tau in read_tensors(vector).values())
