"""A loss or weights that are not finite stop a training, and are neither kept nor exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of
from trained import run, train_expert

from deme_core.errors import InputError
from deme_core.tensors import read_recipe, read_tensors
from deme_core.training import loop


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
    (state_file,) = (tmp_path / "b").glob("*/state.safetensors")
    assert read_recipe(state_file)["step"] == 4
    assert all(bool(value.isfinite().all()) for value in read_tensors(state_file).values())
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
    (state_file,) = (tmp_path / "work").glob("*/state.safetensors")
    assert all(bool(value.isfinite().all()) for value in read_tensors(state_file).values())
