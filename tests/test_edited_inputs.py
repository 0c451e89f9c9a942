"""The section `inputs`: an edit of a file that params name makes exactly the stages that read it run again.

No stage runs here, and no output is made by one: DVC takes a folder of made-up files for what the stages left, and is
asked after an edit whose deps have changed.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from dvc.repo import Repo
from named_inputs import BASELINES, LOCAL, SETS, params_with, write

from deme_core.dag import dag
from deme_core.inputs import UNCHANGING, inputs

MODELS, SAMPLED = (tuple(dag(1, BASELINES)[name]) for name in ("models", "sampled"))
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


def workspace(params: dict[str, Any], files: tuple[str, ...] = FILES) -> Callable[[str], set[str]]:
    """Make the working directory a project in which all has run; file -> the stages that an edit of it changes."""
    shutil.copy(REPOSITORY / ".dvcignore", ".")
    write(".dvc/config", "[core]\n    no_scm = true\n")
    write("params.yaml", yaml.safe_dump(params))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    for stage in (one.get("do", one) for one in stages.values()):
        stage.pop("params", None)  # these and code do not change here, and hashing them takes long
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith(("closures/", "deme_core/"))]
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
    changes: dict[str, Any] = {"clip_score": {"model": "mine/clip", "pretrained": None}}
    changed_by = workspace(params_with(LOCAL | changes), files)
    assert changed_by(files[0]) == of("evaluate_prompts", *SETS) | {f"prompts@{name}" for name in SETS}
    changes["search_clip_score"] = changes.pop("clip_score")  # and the one that it uses changes nothing else
    changed_by = workspace(params_with(LOCAL | changes), files)
    assert changed_by(files[0]) == SEARCHES
    changes["merge_search"] = {"objective": "frechet"}
    assert params_with(LOCAL | changes)["inputs"]["search_clip"] == UNCHANGING


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
    changes = {"pretrain_load": {"source": str(outside / "base")}, "data": {"source": "folder", "path": "../pictures"}}
    changed_by = workspace(params_with(changes))
    assert changed_by(str(base)) == changed_by("../weights") == {"validate", "pretrain_load"}
    assert changed_by(pictures) == {"data"}
