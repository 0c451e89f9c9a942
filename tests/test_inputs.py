"""The section `inputs`: what DVC looks at of the files that params name, and sections that are not of these params."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, stage, write_pipeline
from dvc.repo import Repo
from hub_files import write_flat
from named_inputs import LOCAL, params_with, write

from deme_core.data.images import DataParams
from deme_core.hub_layouts import find_layout
from deme_core.inputs import UNCHANGING, inputs
from deme_core.merging.untrained import EarlyParams
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import FeatureParams
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import section as section_of
from deme_core.prompts.settings import PromptParams
from deme_core.prompts.table import prompt_params
from deme_core.search.settings import SearchParams
from deme_core.training.scratch import PretrainParams


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"data": {"source": "digits", "path": None}}, "data", UNCHANGING),
        ({"data": {"source": "parquet", "path": "rows/*.parquet"}}, "data", "rows"),
        ({"data": {"source": "parquet", "path": "rows/a.parquet"}}, "data", "rows/a.parquet"),
        ({"data": {"source": "zip", "path": "a.zip"}}, "data", "a.zip"),
        ({"data": {"source": "idx", "path": "/usr/share/images"}}, "data", "/usr/share/images"),
        ({"data": {"source": "folder", "path": "your/images"}}, "data", "your/images"),  # not there: DVC names it
        ({"data": {"source": "hub", "path": "owner/images"}}, "data", UNCHANGING),
        ({"pretrain_load": {"source": "train"}}, "base", UNCHANGING),
        ({"pretrain_load": {"source": "owner/name"}}, "base", UNCHANGING),
        ({"pretrain_load": {"source": "owner/name/unet_ema"}}, "base", UNCHANGING),
        ({"pretrain_load": {"source": "zoo/nothing-yet"}}, "base", "zoo/nothing-yet"),
        ({"pretrain_load": {"source": "./owner/name"}}, "base", "./owner/name"),
        ({"pretrain_load": {"source": "../name"}}, "base", "../name"),
        ({"pretrain_load": {"source": "here"}}, "base", "here"),
        ({"pretrain_load": {"source": "here/too"}}, "base", "here/too"),
        ({"clip_score": {"model": "here/too", "pretrained": None}}, "clip", "here/too"),
        ({"clip_score": {"model": "here", "pretrained": "openai"}}, "clip", UNCHANGING),
        ({"search_clip_score": {"model": "here", "pretrained": None}}, "search_clip", UNCHANGING),  # of no objective
        ({"merge_search": {"prompts": ["a", "b"]}}, "search_prompts", "data/prompts"),
        ({"merge_search": {"extractors": []}}, "search_extractors", UNCHANGING),
        ({"merge_search": {"extractors": ["zoo/mine/a"]}}, "search_extractors", "zoo/mine/a"),
        ({"merge_search": {"extractors": ["zoo/mine/a", "zoo/mine/b"]}}, "search_extractors", "zoo/mine"),
    ],
)
def test_what_dvc_looks_at(empty_folder: Path, changes: dict[str, Any], key: str, expected: str) -> None:
    (empty_folder / "here" / "too").mkdir(parents=True)
    (empty_folder / "train").mkdir()
    assert params_with(changes)["inputs"][key] == expected
    assert params_with(changes, empty_folder)["inputs"] == params_with(changes)["inputs"]


@pytest.mark.parametrize(
    ("section", "key", "cls", "found"),
    [
        ("data", "path", DataParams, "data"),
        ("pretrain_load", "source", PretrainParams, "base"),
        ("early", "source", EarlyParams, "early"),
        ("reference", "extractor", FeatureParams, "extractor"),
        ("reference", "statistics", FeatureParams, "statistics"),
        ("judges", "folder", JudgeParams, "judges"),
        ("judges", "development", JudgeParams, None),
        ("clip_score", "model", ClipScoreParams, "clip"),
        ("merge_search", "extractors", SearchParams, "search_extractors"),
        ("own", "path", PromptParams, "prompts"),
        ("own", "reference", PromptParams, "prompts"),
    ],
)
def test_every_path_may_start_at_home(
    empty_folder: Path, section: str, key: str, cls: type, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage and DVC look at the same place, which is no folder called ~."""
    monkeypatch.setenv("HOME", str(empty_folder))
    value: Any = ["~/mine"] if key == "extractors" else "~/mine"
    changes: dict[str, Any] = {key: value} | ({"source": "folder"} if section == "data" else {})
    if cls is PromptParams:
        changes = {"prompts": {"own": {"source": "file", "path": "x"} | changes}}
    else:
        changes = {section: changes | ({"pretrained": None} if section == "clip_score" else {})}
    params = params_with(changes)
    place = str(empty_folder / "mine")
    parsed = prompt_params(params)["own"] if cls is PromptParams else section_of(params, section, cls)
    assert getattr(parsed, key) in (place, (place,))
    if found == "prompts":
        assert params["inputs"]["prompts"]["own"][key] == place
    elif found is not None:
        assert params["inputs"][found] == place
    assert not any(text.startswith("~") for text in re.findall(r"'([^']*)'", str(params["inputs"])))


@pytest.mark.parametrize("layout", ["pipeline", "flat", "inside", "scheduler beside"])
def test_all_that_is_read_of_a_base_lies_in_the_folder_that_dvc_looks_at(empty_folder: Path, layout: str) -> None:
    source = empty_folder / "base"
    if layout == "flat":
        write_flat(source, "cifar10")
    else:
        write_pipeline(source)
        source = source if layout == "pipeline" else source / "unet"
        if layout == "scheduler beside":
            (source.parent / "model_index.json").unlink()
    base = Path(params_with({"pretrain_load": {"source": str(source)}})["inputs"]["base"])
    found = find_layout(source)
    assert base == empty_folder / "base"
    assert all(part == base or base in part.parents for part in (found.root, found.denoiser, found.scheduler) if part)


def test_beside_a_model_of_the_zoo_dvc_sees_only_what_is_read_with_it() -> None:
    ignore = Repo(REPOSITORY).dvcignore
    of_a_clip = {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for folder in (recipe.parent for recipe in (REPOSITORY / "zoo").rglob("recipe.yaml")):
        index = folder / "model_index.json"
        parts = {*json.loads(index.read_text())} if index.is_file() else set()
        seen = {path for path in folder.iterdir() if path.is_dir() or not ignore.is_ignored_file(str(path))}
        assert {path.name for path in seen if path.is_dir()} <= parts, folder
        files = {path.name for path in seen if path.is_file()}
        assert files <= {"model_index.json", "config.json", "model.safetensors", *of_a_clip}, folder


# A section that is not that of the params


@pytest.mark.parametrize(
    ("name", "changes", "key", "more"),
    [
        ("pretrain_load", {"pretrain_load": {"source": "mine/base"}}, "base", ["--data", "none"]),
        ("data", {"data": {"source": "hub", "path": "mine/base"}}, "data", []),
        ("prompts", LOCAL | {"clip_score": {"model": "mine/base", "pretrained": None}}, "clip", ["--set", "free"]),
    ],
)
def test_a_folder_that_has_come_since_the_params_were_composed_is_not_read(
    empty_folder: Path, name: str, changes: dict[str, Any], key: str, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the hub out of reach a user fetches a model into the place of its id: DVC would not look there."""
    write("params.yaml", yaml.safe_dump(params_with(changes)))
    write_pipeline(empty_folder / "mine" / "base")
    with pytest.raises(SystemExit) as stopped:
        stage(name, *more, "--out", "out", monkeypatch=monkeypatch)
    assert stopped.value.code == (
        f"error: params: inputs.{key} = 'data/params.checked': what the params name is 'mine/base'; it is derived:"
        " `dvc exp run` and `make params` compose params.yaml anew"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("section", [None, {}, {"base": "zoo/base"}])
def test_validate_refuses_inputs_of_other_params(
    empty_folder: Path, section: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("zoo").symlink_to(REPOSITORY / "zoo")
    write("params.yaml", yaml.safe_dump(params_with({}) | {"inputs": section}))
    with pytest.raises(SystemExit, match=r"error: params: inputs\.base = .* name is 'zoo/digits-ddpm'"):
        stage("validate", "--out", "checked", monkeypatch=monkeypatch)
    write("params.yaml", yaml.safe_dump(params_with({})))
    stage("validate", "--out", "checked", monkeypatch=monkeypatch)


def test_dvc_composes_the_section_from_the_root_of_the_repository(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was called: `zoo` lies there, and not here."""
    monkeypatch.syspath_prepend(REPOSITORY / "conf")
    sys.modules.pop("compose", None)
    overrides = ["experiment=digits_t2i", "pretrain_load.source=conf/experiment"]
    params = yaml.safe_load(__import__("compose").compose_params(overrides))
    assert params["inputs"] == inputs(params, REPOSITORY) != inputs(params)
    assert params["inputs"]["base"] == "conf/experiment"
    assert params["inputs"]["prompts"] == {
        "captions": {"path": "data/images", "reference": UNCHANGING},
        "classes": {"path": "prompts/digits-classes.txt", "reference": UNCHANGING},
        "free": {"path": "prompts/digits-free.txt", "reference": UNCHANGING},
    }
    assert params["dag"]["prompted"]["merged+classes"]["reference"] == "data/reference/heldout.safetensors"
    assert params["dag"]["prompted"]["merged+free"]["reference"] == UNCHANGING
