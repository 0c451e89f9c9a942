"""A training that is interrupted resumes exactly, and one that has ended is not repeated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of, write_pipeline
from trained import Interrupted, equal, run, train_expert, write_wide

from deme_core.tensors import weights_hash
from deme_core.training import batches


def interrupt_at(steps: set[int]) -> Callable[[int, torch.nn.Module], None]:
    """A snapshot that stops the training once at each of the steps."""

    def snapshot(step: int, _: torch.nn.Module) -> None:
        if step in steps:
            steps.remove(step)
            raise Interrupted

    return snapshot


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
