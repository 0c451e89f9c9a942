"""The micro-batches of a step: together they are one batch, and each has draws of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from trained import run, train_expert

from deme_core.checkpoints import load_denoiser
from deme_core.data.images import to_model
from deme_core.training import batches


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


def test_the_draws_asked_for_reach_the_network(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = batches.draw_timesteps, []

    def seen(n: int, span: tuple[int, int], T: int, p: float, **options: Any) -> torch.Tensor:
        calls.append((n, span, T, p, options["draw"], options["antithetic"]))
        return draw(n, span, T, p, **options)

    monkeypatch.setattr(batches, "draw_timesteps", seen)
    train_expert(
        pipeline, digits, tmp_path / "out", i=2, iterations=1, log_every=1, timestep_draw="per_batch", antithetic=True
    )
    assert calls == [(8, (500, 1000), 1000, 0.4, "per_batch", True)]
