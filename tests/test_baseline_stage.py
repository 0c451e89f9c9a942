"""The stage finetune_baseline: denoisers, vectors and one curve, with the weights of the search."""

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from baseline_trainings import RANGES, Trainings, W
from conftest import N, search_result

from deme_core.checkpoints import WEIGHTS
from deme_core.data.images import Images, save_part
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read
from deme_core.tensors import read_tensors
from deme_core.training.weighting import merge_equivalent_weights

ROOT = Path(__file__).parents[1]


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
