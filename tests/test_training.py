"""The training loop on a tiny model: the loss falls, the curve tells it, and every variant that params name trains."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import job_of, training_params, write_pipeline
from diffusers import UNet2DModel
from trained import equal, run, state_tensors, train_expert, write_wide

from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.errors import InputError
from deme_core.projection import projection_keys
from deme_core.tensors import read_tensors, shapes
from deme_core.training.loop import train


def test_the_rate_of_dropout_is_a_param(pipeline_copy: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    config = pipeline_copy / "unet" / "config.json"
    plain = run(pipeline_copy, digits, tmp_path / "plain")[1]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.5}))
    assert equal(run(pipeline_copy, digits, tmp_path / "off", dropout=0.0)[1], plain)
    kept = run(pipeline_copy, digits, tmp_path / "kept")[1]
    assert not equal(kept, plain)
    assert equal(run(pipeline_copy, digits, tmp_path / "same", dropout=0.5)[1], kept)
    assert not equal(run(pipeline_copy, digits, tmp_path / "less", dropout=0.1)[1], kept)


def test_the_loss_falls(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    curve = train_expert(
        pipeline, digits, tmp_path / "out", iterations=160, batch_size=16, learning_rate=3e-3, consistency=0.0,
        log_every=20, checkpoint_every=160,
    )  # fmt: skip
    losses = [row["loss"] for row in curve]
    assert [row["step"] for row in curve] == list(range(20, 161, 20))
    assert losses[0] > 0.5
    assert max(losses[-2:]) < 0.7 * losses[0]
    assert all(row["denoising"] == row["loss"] and row["consistency"] == 0 for row in curve)


def test_the_curve_is_the_mean_since_the_last_row(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    every, _ = run(pipeline, digits, tmp_path / "a", log_every=1)
    third, _ = run(pipeline, digits, tmp_path / "b", log_every=3, checkpoint_every=12)
    assert [row["step"] for row in third] == [3, 6, 9, 12]
    for row in third:
        for key in ("loss", "denoising", "consistency"):
            mean = sum(r[key] for r in every if row["step"] - 3 < r["step"] <= row["step"]) / 3
            assert row[key] == pytest.approx(mean, rel=1e-6)
        assert row["loss"] == pytest.approx(row["denoising"] + row["consistency"], rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"lr_schedule": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({"lr_schedule": "constant_with_warmup", "lr_warmup": 4}, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1]),
        ({"lr_schedule": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"lr_schedule": "piecewise_constant", "lr_steps": "1:2,0.5:4,0.1"}, [1, 1, 0.5, 0.5, 0.1, 0.1]),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, schedule: dict[str, Any], factors: list[float]
) -> None:
    curve, _ = run(pipeline, digits, tmp_path / "x", iterations=6, log_every=1, **schedule)
    assert [row["lr"] for row in curve] == pytest.approx([1e-3 * factor for factor in factors])


def test_a_training_in_another_thread_is_the_same(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    """There no signal is heard, and asking for one would be an error."""
    straight = run(pipeline, digits, tmp_path / "main")
    with ThreadPoolExecutor() as threads:
        curve, weights = threads.submit(run, pipeline, digits, tmp_path / "other").result()
    assert curve == straight[0] and equal(weights, straight[1])


def test_moments_in_8_bits_train_as_those_in_32_do(digits: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pipeline = write_wide(tmp_path / "pipeline")
    curves, states = {}, {}
    for name in ("adamw", "adamw_8bit"):
        curves[name], _ = run(
            pipeline, digits, tmp_path / name, iterations=40, log_every=20, checkpoint_every=20, optimizer=name
        )
        states[name] = state_tensors(tmp_path / name, "optimizer")
    for full, small in zip(curves["adamw"], curves["adamw_8bit"], strict=True):
        assert small["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert {value.dtype for key, value in states["adamw"].items() if key.endswith("exp_avg")} == {torch.float32}
    moments = [value for key, value in states["adamw_8bit"].items() if key.endswith(("state1", "state2"))]
    assert {value.dtype for value in moments if value.numel() > 4096} == {torch.uint8}


def test_8_bits_without_bitsandbytes_are_refused_before_a_step(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match=r"needs the package bitsandbytes .*pip install 'deme\[gpu\]'"):
        run(pipeline, digits, tmp_path / "state", optimizer="adamw_8bit")
    assert not (tmp_path / "state" / "state.safetensors").exists()


# Variants


@pytest.mark.parametrize("projection", ["foldable", "released", "none"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_placement_and_prediction_type_trains(
    digits: torch.Tensor, tmp_path: Path, projection: str, prediction: str
) -> None:
    pipeline = write_pipeline(tmp_path / "pipeline", prediction_type=prediction)
    train_expert(
        pipeline, digits, tmp_path / "out", iterations=4, projection=projection, antithetic=True,
        timestep_draw="per_batch", horizontal_flip=True,
    )  # fmt: skip
    expert, base = (read_tensors(folder / WEIGHTS) for folder in (tmp_path / "out", pipeline / "unet"))
    extra = set(projection_keys(expert))
    assert expert.keys() - extra == base.keys()
    assert len(extra) == (5 if projection == "released" else 0)
    assert all(bool(value.isfinite().all()) for value in expert.values())
    assert not any(torch.equal(expert[key], base[key]) for key in base)
    for key in extra:
        identity = torch.eye(len(expert[key]))[:, :, None, None]
        assert 0 < (expert[key] - identity).abs().max() < 0.1
    if projection != "released":
        stock = UNet2DModel.from_pretrained(tmp_path / "out")
        assert {key: tuple(value.shape) for key, value in stock.state_dict().items()} == shapes(
            tmp_path / "out" / WEIGHTS
        )


def test_placements_start_from_the_same_function_and_draws(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    first = {
        placement: train_expert(
            pipeline, digits, tmp_path / placement, iterations=1, log_every=1, checkpoint_every=1, projection=placement
        )[0]["loss"]
        for placement in ("foldable", "released", "none")
    }
    assert len(set(first.values())) == 1


def test_bfloat16_stays_close_to_float32(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    exact, _ = run(pipeline, digits, tmp_path / "a")
    AcceleratorState._reset_state()  # one precision a process is accelerate's rule
    try:
        rounded, weights = run(pipeline, digits, tmp_path / "b", mixed_precision="bf16")
    finally:
        AcceleratorState._reset_state()
    assert [row["loss"] for row in rounded] == pytest.approx([row["loss"] for row in exact], rel=0.02)
    assert rounded != exact
    assert all(value.dtype == torch.float32 for value in weights.values())


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_frozen_teacher_has_the_precision_of_the_training(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    teacher = load_denoiser(pipeline / "unet")
    before = {key: value.to(dtype) for key, value in teacher.state_dict().items()}
    AcceleratorState._reset_state()
    try:
        train(
            load_denoiser(pipeline / "unet"), load_noise_schedule(pipeline), Pixels(digits),
            job_of(training_params(iterations=2, mixed_precision=precision, projection="none")), tmp_path / "state",
            teacher=teacher,
        )  # fmt: skip
    finally:
        AcceleratorState._reset_state()
    assert equal(teacher.state_dict(), before)
