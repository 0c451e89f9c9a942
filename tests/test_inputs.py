"""The section `inputs`: an edit of a file that params name makes exactly the stages that read it run again.

No stage runs here, and no output is made by one: DVC takes a folder of made-up files for what the stages left, and is
asked after an edit whose deps have changed.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, stage, write_pipeline
from dvc.repo import Repo
from hub_files import write_flat

from deme_core.dag import dag
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

BASELINES = ["soup_greedy"]  # brings a second search
MODELS, SAMPLED = (tuple(dag(1, BASELINES)[name]) for name in ("models", "sampled"))
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
FILES = (
    "pictures/deep/a.png", "real/statistics.npz", "real/classes.safetensors", "texts/classes.txt", "texts/free.txt",
    "texts/other.txt", "zoo/base/model_index.json", "zoo/base/unet/diffusion_pytorch_model.safetensors",
    "zoo/base/vae/config.json", "zoo/base/recipe.yaml", "zoo/base/convergence.png", "zoo/base/convergence.json",
    "zoo/base/training.csv", "zoo/base/quality.json", "zoo/clip/open_clip_model.safetensors", "zoo/clip/recipe.yaml",
    "zoo/more/a/config.json", "zoo/more/b/config.json",
    "zoo/digits-ddpm/unet/diffusion_pytorch_model.safetensors", "zoo/digits-features/model.safetensors",
)  # fmt: skip
JUDGES = "zoo/judges/digits/final/pixels/config.json"
SEARCHES = {"merge_search", "merge_search_baseline@soup_greedy", "merge_search_baseline@random1"}


def params_with(changes: dict[str, Any], root: Path = Path()) -> dict[str, Any]:
    """The params of the default, keys of some sections changed, with `dag` and `inputs` to match."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {
        "N": 1,
        "baselines": BASELINES,
        "directions": ["range"],
        "analyses": [],
    }
    for name, own in changes.items():
        params[name] = own if name == "prompts" else params[name] | own
    references = {name: own.get("reference") for name, own in params["prompts"].items()}
    return params | {"dag": dag(1, BASELINES, references), "inputs": inputs(params, root)}


def write(file: str | Path, text: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)


def workspace(params: dict[str, Any], files: tuple[str, ...] = FILES) -> Callable[[str], set[str]]:
    """Make the working directory a project in which all has run; file -> the stages that an edit of it changes."""
    shutil.copy(REPOSITORY / ".dvcignore", ".")
    write(".dvc/config", "[core]\n    no_scm = true\n")
    write("params.yaml", yaml.safe_dump(params))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for own in (one.get("do", one) for one in stages.values()):
        own.pop("params", None)  # these and code do not change here, and hashing them takes long
        own["deps"] = [dep for dep in own["deps"] if not dep.startswith(("closures/", "deme_core/"))]
    write("dvc.yaml", yaml.safe_dump({"stages": stages}))
    for file in (*files, JUDGES, "stages/validate.py", "reports/analyses/README.md"):
        write(file, file)
    repo = Repo(".")
    for out in repo.index.outs:
        write(out.def_path if "." in Path(out.def_path).name else f"{out.def_path}/heldout.safetensors", out.def_path)
    with repo.lock:
        for one in repo.index.stages:
            one.save_deps()

    def changed() -> set[str]:
        with repo.lock:
            return {one.addressing for one in repo.index.stages if any(dep.status() for dep in one.deps)}

    def changed_by(file: str) -> set[str]:
        text = Path(file).read_text()
        write(file, text[:-1] + chr(ord(text[-1]) ^ 1))
        found = changed()
        write(file, text)
        return found

    assert changed() == set()
    return changed_by


def of(name: str, *sets: str) -> set[str]:
    """A stage of each model and prompt set."""
    return {f"{name}@{model}+{each}" for each in sets for model in SAMPLED}


def test_an_edit_of_what_params_name_makes_those_who_read_it_run_again(empty_folder: Path) -> None:
    changed_by = workspace(params_with(LOCAL))
    evaluated, opened = of("evaluate_prompts", *SETS), {f"prompts@{name}" for name in SETS}
    featured = {"reference", *(f"features@{model}" for model in MODELS)}
    assert changed_by("pictures/deep/a.png") == {"data"}
    assert changed_by("real/statistics.npz") == {"reference"}
    for file in ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"):
        assert changed_by(f"zoo/base/{file}") == {"validate", "pretrain_load"}, file
    assert changed_by("zoo/clip/open_clip_model.safetensors") == featured | evaluated | opened | SEARCHES
    for name in "ab":
        assert changed_by(f"zoo/more/{name}/config.json") == SEARCHES
    assert changed_by("texts/classes.txt") == {"prompts@classes"}
    assert changed_by("texts/free.txt") == {"prompts@free"}
    assert changed_by("real/classes.safetensors") == {"prompts@classes"} | of("evaluate_prompts", "classes")
    for file in FILES[FILES.index("zoo/base/recipe.yaml") :][:5]:
        assert changed_by(file) == set(), file
    for file in ("texts/other.txt", "zoo/clip/recipe.yaml", *FILES[-2:]):
        assert changed_by(file) == set(), file
    # What the run makes of them: a set's texts go to those alone who sample or measure it.
    asked = {name: of("sample_prompts", name) | of("evaluate_prompts", name) for name in SETS}
    assert changed_by("data/prompts/free.json") == asked["free"]
    assert changed_by("data/prompts/classes.json") == asked["classes"] | SEARCHES
    assert changed_by("data/prompts/captions.json") == asked["captions"] | {f"sample@{model}" for model in SAMPLED}
    assert changed_by(JUDGES) == {"judge_reference", *(f"judge@{model}" for model in MODELS)}
    evaluated = {f"evaluate@{model}" for model in MODELS} | SEARCHES
    assert changed_by("data/reference/heldout.safetensors") == evaluated | of("evaluate_prompts", "captions")


def test_an_edit_of_an_earlier_checkpoint_makes_its_vector_anew(empty_folder: Path) -> None:
    file = "mine/early/unet/diffusion_pytorch_model.safetensors"
    write(file, file)
    write("mine/early/model_index.json", "{}")
    params = params_with({"early": {"source": "mine/early/unet"}})  # of a pipeline its folder is looked at
    params["dag"] = dag(1, BASELINES, directions=("range", "early"))
    assert params["inputs"]["early"] == "mine/early"
    assert workspace(params, (file, *FILES))(file) == {"direction@early"}


def test_a_clip_model_that_the_search_does_not_use_does_not_change_it(empty_folder: Path) -> None:
    files = ("mine/clip/open_clip_model.safetensors", *FILES)
    write(files[0], files[0])  # a folder that could be a hub id, but is there
    own: dict[str, Any] = {"clip_score": {"model": "mine/clip", "pretrained": None}}
    changed_by = workspace(params_with(LOCAL | own), files)
    assert changed_by(files[0]) == of("evaluate_prompts", *SETS) | {f"prompts@{name}" for name in SETS}
    own["search_clip_score"] = own.pop("clip_score")  # and the one that it uses changes nothing else
    changed_by = workspace(params_with(LOCAL | own), files)
    assert changed_by(files[0]) == SEARCHES
    own["merge_search"] = {"objective": "frechet"}
    assert params_with(LOCAL | own)["inputs"]["search_clip"] == UNCHANGING


def test_without_prompts_and_with_all_from_the_hub_there_is_nothing_to_look_at(empty_folder: Path) -> None:
    hub = {
        "data": {"source": "hub", "path": "owner/images"}, "pretrain_load": {"source": "owner/name/unet_ema"},
        "clip_score": {"model": "owner/clip", "pretrained": None}, "reference": {"extractor": "zoo/clip"},
    }  # fmt: skip
    params = params_with(hub)
    assert params["inputs"].pop("prompts") == {}
    assert params["inputs"].pop("validate") == "stages/validate.py"
    for name in ("extractor", "judges"):
        del params["inputs"][name]  # always of this machine
    assert set(params["inputs"].values()) == {UNCHANGING}
    params["inputs"] = inputs(params)
    changed_by = workspace(params)
    for file in ("pictures/deep/a.png", "zoo/base/model_index.json", FILES[-2], "texts/free.txt"):
        assert changed_by(file) == set(), file


def test_folders_outside_the_repository(
    empty_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    project = empty_folder / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    base, pictures = outside / "base" / "model_index.json", "../pictures/a.png"
    (empty_folder / "weights").write_text("linked")
    for file in (base, pictures):
        write(file, "{}")
    (base.parent / "weights").symlink_to(empty_folder / "weights")
    own = {"pretrain_load": {"source": str(outside / "base")}, "data": {"source": "folder", "path": "../pictures"}}
    changed_by = workspace(params_with(own))
    assert changed_by(str(base)) == changed_by("../weights") == {"validate", "pretrain_load"}
    assert changed_by(pictures) == {"data"}


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
    own: dict[str, Any] = {key: value} | ({"source": "folder"} if section == "data" else {})
    if cls is PromptParams:
        own = {"prompts": {"own": {"source": "file", "path": "x"} | own}}
    else:
        own = {section: own | ({"pretrained": None} if section == "clip_score" else {})}
    params = params_with(own)
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
