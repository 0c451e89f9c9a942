"""The whole DAG on tiny replicas of the paper's unconditional checkpoints: their geometry, the hub's old layout."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY
from dag_runs import run_dag
from hub_files import GEOMETRIES, write_flat
from image_files import BROKEN, encoded, noise, users_images, write_folder
from toy_run import TOY

from deme_core.analyses import READS
from deme_core.dag import DIRECTIONS, dag


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_stage_runs_on_a_replica_and_pictures_of_any_kind(
    geometry: str, empty_folder: Path, rgb_extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flat(empty_folder / "flat", geometry)
    write_flat(empty_folder / "early", geometry, seed=1)
    pictures = {f"{k:03}.png": encoded(noise(20 + k, 40, seed=k)) for k in range(40)}
    write_folder(empty_folder / "pictures", users_images() | BROKEN | pictures)
    shutil.copytree(rgb_extractor, empty_folder / "judges" / "own")
    (empty_folder / "judges" / "pixels").mkdir()
    (empty_folder / "judges" / "pixels" / "config.json").write_text('{"_class_name": "Pixels", "side": 4}')
    data = {"source": "folder", "path": "pictures", "size": GEOMETRIES[geometry]["sample_size"], "held_out": 0.2}
    changes = TOY | {
        "directions": list(DIRECTIONS), "dag": dag(2, ["full_range"], directions=DIRECTIONS, analyses="all"),
        "analyses": "all",
        "baselines": ["full_range"], "early": {"source": "early"}, "reference": {"extractor": str(rgb_extractor)},
        "judges": {"folder": "judges", "development": "judges"},
        "data": data | {"unreadable": "skip"}, "pretrain_load": {"source": "flat"}, "sample": {"images": 40},
        "finetune_range": {"iterations": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 2},
        "merge_search": TOY["merge_search"] | {"budget": 180, "images": 10, "final_images": 20},
        "sampler": {"steps": 2, "block": 10}, "evaluate": {"blocks": 2},
    }  # fmt: skip
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) and key != "dag" else value
    ran = run_dag(params, monkeypatch)
    assert {path.stem for path in (REPOSITORY / "stages").glob("*.py")} - ran == {
        "prompts",
        "evaluate_prompts",
        "report_prompts",
    }
    for model, anchor in (("early", -0.1), ("scaled", 0.01)):
        trials = pd.read_csv(f"search/n2/{model}/trials.csv")
        assert anchor in set(trials["w1"]), model
        assert not set(trials["w1"]) & {0.5, 1.0}, model  # neither 1/N nor the whole step
    pictures = {path.stem for path in Path("reports/analyses").glob("*.png")}
    assert pictures == set(READS)
    vectors = pd.read_csv("reports/analyses/vectors.csv")["vector"]
    assert [*vectors.unique()] == [
        "expert 1", "expert 2", "own samples 1", "own samples 2", "earlier checkpoint", "ε scaled", "full_range",
    ]  # fmt: skip
    metrics = json.loads(Path("measures/merged.json").read_text())
    assert metrics["reference_images"] == 37
    assert "full-range" in Path("reports/run/results.md").read_text()
