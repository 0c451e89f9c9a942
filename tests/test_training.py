"""The training loop on a tiny model: the loss falls, a resume is exact, what is broken is neither kept nor exported."""

import copy
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import ARCHITECTURE, N, files_of, job_of, training_params, write_pipeline
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from deme_core.checkpoints import WEIGHTS, load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.data.images import to_model
from deme_core.errors import InputError
from deme_core.projection import projection_keys
from deme_core.tensors import read_recipe, read_tensors, shapes, weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training import batches, loop
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.job import Curve, Job
from deme_core.training.loop import train

RANGES = TimestepRanges.equal(N, 1000)


def train_expert(
    pipeline: Path, digits: torch.Tensor, out: Path, *, work: str = "work", i: int = 1, **changes: Any
) -> Curve:
    job = expert_job(RANGES, i, 0.4, training_params(**changes), 0)
    return finetune(job, pipeline, Pixels(digits), out, checkpoints=out.parent / work)


def run(
    pipeline: Path, digits: torch.Tensor, state: Path, *, schedule: DDPMScheduler | None = None,
    snapshot: Callable[[int, torch.nn.Module], None] | None = None, **changes: Any,
) -> tuple[Curve, dict[str, torch.Tensor]]:  # fmt: skip
    """`train` on range 1, with a snapshot every step: the curve and the final weights."""
    student = load_denoiser(pipeline / "unet")
    params = training_params(**{"projection": "none"} | changes)
    curve = train(
        student, schedule or load_noise_schedule(pipeline), Pixels(digits), job_of(params), state,
        teacher=copy.deepcopy(student) if params.consistency else None, snapshot=snapshot, snapshot_every=1,
    )  # fmt: skip
    return curve, student.state_dict()


def write_wide(directory: Path, dropout: float = 0.0) -> Path:
    """A pipeline whose convolutions have more than 4,096 elements: the moments of smaller tensors keep 32 bits."""
    model = UNet2DModel(**ARCHITECTURE | {"block_out_channels": (32, 32), "dropout": dropout})
    DDPMPipeline(model, DDPMScheduler()).save_pretrained(directory)
    return directory


class Interrupted(Exception):
    pass


def interrupt_at(steps: set[int]) -> Callable[[int, torch.nn.Module], None]:
    """A snapshot that stops the training once at each of the steps."""

    def snapshot(step: int, _: torch.nn.Module) -> None:
        if step in steps:
            steps.remove(step)
            raise Interrupted

    return snapshot


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def state_tensors(state: Path, part: str) -> dict[str, torch.Tensor]:
    """`model`, `ema` or `optimizer` of a resume state."""
    tensors = read_tensors(state / "state.safetensors")
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation": 2, "lr_schedule": "cosine"},
        {"timestep_draw": "per_batch", "horizontal_flip": True},
        {"optimizer": "adamw_8bit"},
    ],
)
def test_a_training_interrupted_anywhere_resumes_exactly(
    digits: torch.Tensor, tmp_path: Path, changes: dict[str, Any]
) -> None:
    write = write_pipeline
    if changes.get("optimizer") == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
        write = write_wide
    pipeline = write(tmp_path / "pipeline", dropout=0.2)
    straight = run(pipeline, digits, tmp_path / "straight", **changes)
    at = {2, 4, 7, 8, 11}  # before, on and after a checkpoint
    snapshot = interrupt_at(at)
    while at:
        with pytest.raises(Interrupted):
            run(pipeline, digits, tmp_path / "cut", snapshot=snapshot, **changes)
    curve, weights = run(pipeline, digits, tmp_path / "cut", snapshot=snapshot, **changes)
    assert curve == straight[0] and [*curve[0]] == [*straight[0][0]]  # the order of the columns, too
    assert equal(weights, straight[1])
    assert weights_hash(tmp_path / "cut" / "state.safetensors") == weights_hash(
        tmp_path / "straight" / "state.safetensors"
    )


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


@pytest.mark.parametrize("projection", ["foldable", "released", "none"])
def test_an_interrupted_expert_is_byte_identical(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, projection: str
) -> None:
    straight = train_expert(pipeline, digits, tmp_path / "straight", work="a", projection=projection)
    draw, calls = batches.draw_timesteps, []

    def interrupted(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 7:
            raise Interrupted
        return draw(*args, **options)

    monkeypatch.setattr(batches, "draw_timesteps", interrupted)
    with pytest.raises(Interrupted):
        train_expert(pipeline, digits, tmp_path / "cut", work="b", projection=projection)
    assert train_expert(pipeline, digits, tmp_path / "cut", work="b", projection=projection) == straight
    assert len(calls) == 7 + 8  # steps 5 to 12: it went on from the state of step 4
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "straight")


def test_a_finished_training_is_exported_again_without_training(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_expert(pipeline, digits, tmp_path / "a")
    monkeypatch.setattr(batches, "draw_timesteps", None)
    assert train_expert(pipeline, digits, tmp_path / "b") == first
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


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


# What is broken


def test_a_loss_that_is_not_finite_stops_with_step_and_range(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    message = (
        r"test: the loss is not finite at step 2 \(timesteps \[0, 500\), seen at step 2\); lower the learning rate"
    )
    with pytest.raises(InputError, match=message):
        run(pipeline, digits, tmp_path / "state", learning_rate=1e30)
    assert not (tmp_path / "state" / "state.safetensors").exists()


def test_the_last_good_state_survives_a_loss_that_is_not_finite(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train_expert(pipeline, digits, tmp_path / "straight", work="a")
    losses, calls = loop.denoising_loss, []

    def broken(*args: Any) -> torch.Tensor:
        calls.append(None)
        return losses(*args) * (float("nan") if len(calls) == 6 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "denoising_loss", broken)
        with pytest.raises(InputError, match=r"range 1 of 2, t in \[0, 500\): the loss is not finite at step 6"):
            train_expert(pipeline, digits, tmp_path / "out", work="b")
    assert not (tmp_path / "out").exists()
    (state,) = (tmp_path / "b").glob("*/state.safetensors")
    assert read_recipe(state)["step"] == 4
    assert all(bool(value.isfinite().all()) for value in read_tensors(state).values())
    assert train_expert(pipeline, digits, tmp_path / "out", work="b") == straight
    assert files_of(tmp_path / "out") == files_of(tmp_path / "straight")


def test_weights_that_are_not_finite_are_neither_kept_nor_exported(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, calls = loop.denoising_loss, []

    def broken(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A finite loss, whose gradient at the last step is NaN."""
        calls.append(None)
        zero = (0 * prediction).flatten(1).sum(1)
        return losses(prediction, target) + (zero.sqrt() if len(calls) == 4 else zero)

    monkeypatch.setattr(loop, "denoising_loss", broken)
    with pytest.raises(InputError, match="not finite"):
        train_expert(pipeline, digits, tmp_path / "out", iterations=4, consistency=0.0, log_every=1, checkpoint_every=1)
    assert not (tmp_path / "out").exists()
    (state,) = (tmp_path / "work").glob("*/state.safetensors")
    assert all(bool(value.isfinite().all()) for value in read_tensors(state).values())


# EMA and gradient accumulation


@pytest.mark.parametrize("decay", [0.9999, 0.5])
def test_ema_is_that_worked_by_hand(pipeline: Path, digits: torch.Tensor, tmp_path: Path, decay: float) -> None:
    """decay_k = min(decay, 1 − k^(−3/4)) at optimizer step k, 0 at the first."""
    state = tmp_path / "state"
    raw, ema = [], []

    def snapshot(_: int, model: torch.nn.Module) -> None:
        raw.append(state_tensors(state, "model"))
        assert equal(state_tensors(state, "ema"), dict(model.named_parameters()))
        ema.append(copy.deepcopy(dict(model.named_parameters())))

    _, final = run(pipeline, digits, state, ema_decay=decay, log_every=1, checkpoint_every=1, snapshot=snapshot)
    assert len(raw) == 12
    for key in ema[0]:
        average = raw[0][key].double()
        for k, weights in enumerate(raw, 1):
            rate = min(decay, 1 - k**-0.75)
            average = rate * average + (1 - rate) * weights[key].double()
            torch.testing.assert_close(ema[k - 1][key].double(), average, rtol=1e-5, atol=1e-7)
        assert torch.equal(final[key], ema[-1][key])
    assert not equal(raw[-1], final)


class NoNoise(DDPMScheduler):
    """x_t = x_0, so that the gradient depends on the images alone."""

    def add_noise(self, original_samples: torch.Tensor, *_: Any) -> torch.Tensor:
        return original_samples


def test_two_micro_batches_of_8_move_the_weights_like_one_batch_of_16(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "draw_timesteps", lambda n, *_, **__: torch.full((n,), 100))
    schedule = NoNoise(prediction_type="sample")
    # A large ε in AdamW keeps rounding from being divided by itself.
    common = {"schedule": schedule, "iterations": 4, "adam_epsilon": 1e-2, "learning_rate": 1e-2}
    curve, one = run(pipeline, digits, tmp_path / "one", batch_size=16, **common)
    curves, two = run(pipeline, digits, tmp_path / "two", batch_size=8, gradient_accumulation=2, **common)
    _, other = run(pipeline, digits, tmp_path / "other", batch_size=8, **common)
    start = load_denoiser(pipeline / "unet").state_dict()
    moved = max(float((one[key] - start[key]).abs().max()) for key in one)
    apart = max(float((one[key] - two[key]).abs().max()) for key in one)
    assert apart < 1e-4 * moved
    assert max(float((one[key] - other[key]).abs().max()) for key in one) > 1e-2 * moved
    assert [row["loss"] for row in curves] == pytest.approx([row["loss"] for row in curve], rel=1e-4)


def test_micro_batches_draw_different_images_and_timesteps(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, timesteps, images = batches.draw_timesteps, [], []

    def seen(*args: Any, **options: Any) -> torch.Tensor:
        timesteps.append(draw(*args, **options))
        return timesteps[-1]

    class Recorder(DDPMScheduler):
        def add_noise(self, original_samples: torch.Tensor, *args: Any) -> torch.Tensor:
            images.append(original_samples)
            return super().add_noise(original_samples, *args)

    monkeypatch.setattr(batches, "draw_timesteps", seen)
    run(pipeline, digits, tmp_path / "x", schedule=Recorder(), iterations=4, gradient_accumulation=4)
    assert len({tuple(t.tolist()) for t in timesteps}) == 16
    for epoch in (images[:8], images[8:]):  # 64 images are 8 micro-batches of 8
        assert sorted(map(tuple, torch.cat(epoch).flatten(1).tolist())) == sorted(
            map(tuple, to_model(digits).flatten(1).tolist())
        )
    assert not torch.equal(torch.cat(images[:8]), torch.cat(images[8:]))


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


def test_the_draws_asked_for_reach_the_network(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = batches.draw_timesteps, []

    def seen(n: int, own: tuple[int, int], T: int, p: float, **options: Any) -> torch.Tensor:
        calls.append((n, own, T, p, options["draw"], options["antithetic"]))
        return draw(n, own, T, p, **options)

    monkeypatch.setattr(batches, "draw_timesteps", seen)
    train_expert(
        pipeline, digits, tmp_path / "out", i=2, iterations=1, log_every=1, timestep_draw="per_batch", antithetic=True
    )
    assert calls == [(8, (500, 1000), 1000, 0.4, "per_batch", True)]


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
