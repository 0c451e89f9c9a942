"""Weights on the loss of baselines: they reach the training, and those that it cannot use are refused."""

from pathlib import Path

import pytest
import torch
from baseline_trainings import FINETUNED, RANGES, Trainings, W, baseline
from conftest import N, files_of, job_of, never, training_params, write_pipeline

from deme_core.checkpoints import WEIGHTS, load_noise_schedule
from deme_core.dag import BASELINES
from deme_core.data.examples import Pixels
from deme_core.errors import InputError
from deme_core.tensors import weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training import loop
from deme_core.training.baselines import BaselineParams, check_baselines
from deme_core.training.finetune import finetune
from deme_core.training.job import Curve
from deme_core.training.weighting import WEIGHTINGS, merge_equivalent_weights, weighting


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


def test_p_changes_the_loss_equivalent_alone(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    for name in ("full_range", "min_snr", "loss_equivalent"):
        for p in (0.4, 0.9):
            baseline(name, pipeline, digits, tmp_path / f"{name}-{p}", p=p)
        same = files_of(tmp_path / f"{name}-0.4") == files_of(tmp_path / f"{name}-0.9")
        assert same == (name != "loss_equivalent")


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
