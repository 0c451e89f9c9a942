"""Params that name files of a user, for the tests of the section `inputs`."""

from pathlib import Path
from typing import Any

import yaml
from conftest import REPOSITORY

from deme_core.dag import dag
from deme_core.inputs import inputs

BASELINES = ["soup_greedy"]  # brings a second search
SETS = {
    "captions": {"source": "heldout", "path": "data/images", "reference": "data/reference/heldout.safetensors"},
    "classes": {"source": "file", "path": "texts/classes.txt", "reference": "real/classes.safetensors"},
    "free": {"source": "file", "path": "texts/free.txt"},
}
LOCAL: dict[str, Any] = {
    "data": {"source": "folder", "path": "pictures"},
    "reference": {"extractor": "zoo/clip", "statistics": "real/statistics.npz"},
    "pretrain_load": {"source": "zoo/base"},
    "clip_score": {"model": "zoo/clip", "pretrained": None},  # the extractor's folder, too: a dep that stands twice
    "search_clip_score": {"model": "zoo/clip", "pretrained": None},
    "merge_search": {
        "objective": "frechet+clip_score",
        "prompts": ["classes"],
        "extractors": ["zoo/more/a", "zoo/more/b"],
    },
    "sample": {"prompts": "captions"},
    "prompts": SETS,
}


def params_with(changes: dict[str, Any], root: Path = Path()) -> dict[str, Any]:
    """The params of the default, keys of some sections changed, with `dag` and `inputs` to match."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {
        "N": 1,
        "baselines": BASELINES,
        "directions": ["range"],
        "analyses": [],
    }
    for name, section in changes.items():
        params[name] = section if name == "prompts" else params[name] | section
    references = {name: prompt_set.get("reference") for name, prompt_set in params["prompts"].items()}
    return params | {"dag": dag(1, BASELINES, references), "inputs": inputs(params, root)}


def write(file: str | Path, text: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
