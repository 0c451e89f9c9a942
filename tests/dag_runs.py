"""Whole DAGs for the tests: their params, and a run of one in this process."""

import json
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, stage

from deme_core.dag import dag
from deme_core.inputs import UNCHANGING, inputs

ASKED = ("range", "self")  # directions of the default
PROMPTS: dict[str, Callable[[int], str]] = {  # source -> a file of n prompts
    "coco": lambda n: json.dumps({"annotations": [{"id": i, "image_id": i, "caption": f"no. {i}"} for i in range(n)]}),
    "imagenet": lambda n: json.dumps([f"class {i}" for i in range(n)]),
    "parti": lambda n: "Prompt\n" + "".join(f"prompt {i}\n" for i in range(n)),
    "file": lambda n: "".join(f"prompt {i}\n" for i in range(n)),
}
whole_dag = partial(dag, directions=ASKED)


def link_judges(folder: Path) -> None:
    """Make `zoo/judges` the repository's in a folder that a run starts in."""
    (folder / "zoo").mkdir(exist_ok=True)
    if not (folder / "zoo" / "judges").exists():
        (folder / "zoo" / "judges").symlink_to(REPOSITORY / "zoo" / "judges")


def make_what_is_named(params: dict[str, Any], folder: Path) -> None:
    """Make what a preset names and the repository lacks, its data empty; and take what is trained.

    In `folder` the zoo is the repository's.
    """
    named = [None if params["data"]["source"] == "hub" else params["data"]["path"]]
    named += [prompt_set.get(key) for prompt_set in params["prompts"].values() for key in ("path", "reference")]
    for path in (folder / name.replace("*", "0") for name in named if name and not (REPOSITORY / name).exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir(exist_ok=True)
    for prompt_set in params["prompts"].values():
        if (file := folder / prompt_set["path"]).is_file() and not file.is_symlink() and not file.read_text():
            file.write_text(PROMPTS[prompt_set["source"]](prompt_set.get("count") or 2))
    if params["pretrain_load"]["source"] == "zoo/fashion-mnist-ddpm":  # of which the recipe alone is there
        params["data"]["size"], params["pretrain_load"]["source"] = 16, "zoo/fashion-mnist-16-ddpm"
        params["merge_search"]["extractors"] = []
        params["inputs"] |= {key: "zoo/fashion-mnist-16-ddpm" for key in ("base", "validate")}
        params["inputs"]["search_extractors"] = UNCHANGING


def run_dag(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run the commands that DVC makes of dvc.yaml and these params, in the order of its graph; the scripts that ran."""
    import networkx
    from dvc.repo import Repo

    Path("params.yaml").write_text(yaml.safe_dump(params | {"inputs": inputs(params)}))
    shutil.copy(REPOSITORY / "dvc.yaml", ".")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    graph = Repo(".").index.graph  # from a stage to what it depends on
    ran = set()
    for one in reversed(list(networkx.topological_sort(graph))):
        python, module, name, *arguments = shlex.split(one.cmd)
        assert (python, module) == ("python", "-m")
        stage(name.removeprefix("stages."), *arguments, monkeypatch=monkeypatch)
        ran.add(name.removeprefix("stages."))
    return ran
