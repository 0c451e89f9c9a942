"""A text-to-image pipeline through the whole DAG, as the hub lays it out, on random weights."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from analysed import SMALL
from clip_stand_in import Lengths
from conftest import REPOSITORY as ROOT
from conftest import N
from dag_runs import run_dag, whole_dag
from text_to_image import CHANGES, write_stable_diffusion

from deme_core.analyses import READS

SETS: dict[str, dict[str, Any]] = {
    "captions": {"source": "heldout", "path": "data/images", "reference": "data/reference/heldout.safetensors"},
    "few": {"source": "heldout", "path": "data/images", "count": 2, "each": 3},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it, pickles included; not to be written to."""
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd")


@pytest.mark.slow
def test_every_stage_of_the_dag_runs_on_the_layout_of_the_hub(
    hub: Path, extractor_dir: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that DVC makes of dvc.yaml, in the order of its graph; a stand-in takes the place of open_clip."""
    references = {name: keys.get("reference") for name, keys in SETS.items()}
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
        "N": N, "dag": whole_dag(N, [], references, analyses="all"), "analyses": "all",
    }  # fmt: skip
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(hub), str(extractor_dir)
    for name, changes in (CHANGES | {"prompts": SETS, "analyse": SMALL}).items():
        params[name] |= changes
    params["merge_search"]["objective"], params["sample"]["images"] = "frechet+clip_score", 40
    params["clip_score"] = params["search_clip_score"] = {"model": "compass", "pretrained": None, "revision": None}
    params["gate"]["must_win"], params["own_samples"]["images"] = "ignore", 20
    params["judges"] = {"folder": "judges", "development": "judges"}
    for folder in ("judges/pixels", "compass"):
        Path(folder).mkdir(parents=True)
    Path("judges/pixels/config.json").write_text('{"_class_name": "Pixels", "side": 4}')
    monkeypatch.setattr("deme_core.metrics.clip_score.load_open_clip", lambda *_: Lengths([]))
    ran = run_dag(params, monkeypatch)
    assert ran == {path.stem for path in (ROOT / "stages").glob("*.py")} - {
        "__init__",
        "finetune_baseline",
        "direction",
    }
    assert {"safety_checker", "feature_extractor"} <= {path.name for path in Path(f"models/n{N}/merged").iterdir()}
    assert json.loads(Path(f"search/n{N}/merged/result.json").read_text())["objective"] == "frechet+clip_score"
    assert {path.stem for path in Path("reports/analyses").glob("*.md")} == set(READS)
    table = pd.read_csv("reports/prompts/table2.csv")
    assert {*table["set"]} == {*SETS}
    assert {*table["model"]} == {"pretrained", "ensemble", "merged_uniform", "merged", "random1", "neon", "away"}
    assert table["clip_score"].between(0, 100).all()
    assert table["frechet"].notna().tolist() == (table["set"] == "captions").tolist()
