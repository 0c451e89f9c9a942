"""Published statistics: checked, named by hash, and one more reference of an evaluation."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from deme_core.data.images import DataParams, save_part
from deme_core.data.sources import read_parts
from deme_core.errors import InputError
from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.feature_files import read_features, write_features
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import frechet_distance
from deme_core.metrics.moments import Moments
from deme_core.metrics.statistics_files import import_statistics, read_statistics
from deme_core.params import read
from deme_core.stage import run


def gaussian(dimension: int = 4) -> Moments:
    return Moments.of(np.random.default_rng(0).normal(size=(50, dimension)))


def write_npz(path: Path, **arrays: Any) -> Path:
    moments = gaussian()
    np.savez(path, **({"mu": moments.mean, "sigma": moments.covariance} | arrays))
    return path


def test_the_distance_to_a_file_is_that_to_the_features_behind_it(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "published.npz")
    import_statistics(path, 4, tmp_path)
    found = read_statistics(tmp_path)
    assert found is not None
    moments, recipe = found
    other = Moments.of(np.random.default_rng(1).normal(size=(30, 4)))
    assert frechet_distance(moments, other) == pytest.approx(frechet_distance(gaussian(), other), rel=1e-12)
    assert recipe == {"file": "published.npz", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert read_statistics(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"sigma": np.eye(3)}, "no npz of mu"),
        ({"mu": np.full(4, np.nan)}, "no npz of mu"),
        ({"sigma": np.triu(np.ones((4, 4)))}, "no npz of mu .*symmetric"),
        ({"mu": np.array([{"a": 1}], dtype=object)}, "no npz of mu .*allow_pickle"),
        ({"mu": np.array(["a"] * 4)}, "no npz of mu"),
    ],
)
def test_arrays_that_are_no_statistics_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"x\.npz: {message}"):
        import_statistics(write_npz(tmp_path / "x.npz", **arrays), 4, tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reference\.statistics = '.*x\.npz': no such file"):
        import_statistics(tmp_path / "x.npz", 4, tmp_path)
    for content in (b"", b"text", write_npz(tmp_path / "whole.npz").read_bytes()[:300]):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: no npz of mu \[D\] and sigma \[D, D\] \(.+\); fetch it again"):
            import_statistics(tmp_path / "x.npz", 4, tmp_path)
    np.savez(tmp_path / "x.npz", mean=np.zeros(4))
    with pytest.raises(InputError, match="no npz of mu"):
        import_statistics(tmp_path / "x.npz", 4, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros(4))
    with pytest.raises(InputError, match="no npz of mu"):
        import_statistics(tmp_path / "x.npy", 4, tmp_path)


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="statistics of 4 features, the extractor gives 2048"):
        import_statistics(write_npz(tmp_path / "x.npz"), 2048, tmp_path)


def test_an_evaluation_has_one_more_distance_and_the_others_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features, pretrained, real = (rng.normal(size=(n, 4)) for n in (40, 40, 60))
    with_it, scores = evaluate(features, pretrained, {"train": real}, EvaluateParams(blocks=2), gaussian())
    without, _ = evaluate(features, pretrained, {"train": real}, EvaluateParams(blocks=2))
    assert with_it["frechet_statistics"] == frechet_distance(gaussian(), Moments.of(features))
    assert {key: value for key, value in with_it.items() if "statistics" not in key} == without
    assert len(scores["frechet_statistics"]) == 2
    assert with_it["frechet_statistics_change_low"] <= with_it["frechet_statistics_change"]


def stage(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.syspath_prepend(REPOSITORY / "stages")
    run(__import__(name).main)


def test_the_stages_carry_the_statistics_into_the_protocol(
    empty_folder: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = read_parts(DataParams(source="digits", path=None, size=8, held_out=0.2))
    for part, images in parts.items():
        save_part(Path("data"), part, images)
    extractor = load_extractor(str(extractor_dir))
    features = extractor([parts["train"].pixels[:240]])
    made = {
        "images": 240, "seed_block": 3, "device": "cpu", "sampler": {"steps": 2}, "parameters": 1, "macs_per_step": 1,
    }  # fmt: skip
    write_features(Path("features.safetensors"), features, extractor, made)
    moments = Moments.of(features)
    np.savez("published.npz", mu=moments.mean, sigma=moments.covariance)
    params = read(REPOSITORY / "params.yaml")
    params["reference"] = {"extractor": str(extractor_dir), "statistics": "published.npz"}
    Path("params.yaml").write_text(json.dumps(params))
    stage("reference", "--data", "data", "--out", "reference", monkeypatch=monkeypatch)
    assert read_features(Path("reference/train.safetensors"), extractor.sha256).shape[0] == 1437
    distances = {f"own_{part}": [1.0, 2.0, 3.0, 2.0, 1.0, 2.0] for part in ("train", "heldout")}
    pd.DataFrame(distances).to_csv("judged.csv", index_label="block")
    Path("judged.json").write_text('{"judges": "group-0123", "names": ["own"], "two_sample": {}}')
    file = "features.safetensors"
    arguments = [
        "--features",
        file,
        "--pretrained",
        file,
        "--reference",
        "reference",
        "--out",
        "m.json",
        "--metrics",
        "x.json",
    ]
    arguments += ["--judged", "judged", "--judged-pretrained", "judged"]
    stage("evaluate", *arguments, "--scores", "s.csv", monkeypatch=monkeypatch)
    metrics = json.loads(Path("m.json").read_text())
    assert metrics["frechet_statistics"] == pytest.approx(0, abs=1e-6)
    assert (metrics["judges"], metrics["judges_train_change"]) == ("group-0123", 0)
    assert pd.read_csv("s.csv")["judge_own_train"].tolist() == distances["own_train"]
    digest = hashlib.sha256(Path("published.npz").read_bytes()).hexdigest()
    assert metrics["reference_statistics"] == f"published.npz-{digest[:8]}"
