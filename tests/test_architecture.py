"""The shape of the code: imports point down, stages depend on what they reach, and cheap stages stay cheap.

Layers, from the top: stages > report, preflight > search > merging, training, sampling, metrics > data, prompts >
the files at the root of deme_core. A module may import its own layer and those below, at the top of the file or
inside a function.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, python

from deme_core.closure import closure, imported, names
from deme_core.code_links import FOLDER, check_links, write_links
from deme_core.errors import InputError
from deme_core.stage import RunParams

LAYERS = (
    {""},
    {"data", "prompts"},
    {"merging", "training", "sampling", "metrics"},
    {"search"},
    {"report", "preflight"},
)
STAGES = sorted((REPOSITORY / "stages").glob("*.py"))
MODULES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((REPOSITORY / "deme_core").rglob("*.py"))
}
NAMES = {path: module for module, path in MODULES.items()}
INITS = [path for path in MODULES.values() if path.name == "__init__.py"]
CODE = [module for module, path in MODULES.items() if path not in INITS]
DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
CHEAP = ["task_vector", "evaluate", "features", "reference", "data"]


def imported_modules(path: Path) -> set[str]:
    """The modules of deme_core among a file's imports."""
    return {NAMES[file] for file in imported(path)}


def reached(path: Path) -> set[str]:
    """The modules of deme_core that a file imports, and those that these import, and so on."""
    return {NAMES[file] for direct in imported(path) for file in closure(direct)}


def package(module: str) -> str:
    """The subpackage of a module, "" for a file at the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ""


def layer(module: str) -> int:
    return next(i for i, packages in enumerate(LAYERS) if package(module) in packages)


def commands() -> dict[str, tuple[str, list[str]]]:
    """Stage of dvc.yaml -> its script and its deps."""
    stages = {name: stage.get("do", stage) for name, stage in DAG.items()}
    return {
        name: (re.fullmatch(r"python -m stages\.(\w+) .*", stage["cmd"]).group(1), stage["deps"])
        for name, stage in stages.items()
    }


def test_every_subpackage_has_its_layer() -> None:
    folders = {path.name for path in (REPOSITORY / "deme_core").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set().union(*LAYERS)


def test_imports_point_down() -> None:
    above = {m: up for m in CODE if (up := {o for o in imported_modules(MODULES[m]) if layer(o) > layer(m)})}
    assert above == {}


def test_no_module_reaches_itself() -> None:
    assert [module for module in CODE if module in reached(MODULES[module])] == []


def test_no_subpackage_reaches_itself_through_another() -> None:
    edges = {
        (package(module), package(other))
        for module in CODE
        for other in imported_modules(MODULES[module])
        if package(module) != package(other)
    }
    reach = set(edges)
    while longer := {(a, d) for a, b in reach for c, d in edges if b == c} - reach:
        reach |= longer
    assert {a for a, b in reach if a == b} == set()


def test_nothing_imports_a_stage() -> None:
    stages = {path.stem for path in STAGES}
    folders = ("zoo", "hydra_plugins", "conf", "studies")
    others = [path for folder in folders for path in (REPOSITORY / folder).glob("*.py")]
    for path in (*MODULES.values(), *STAGES, *others):
        roots = {name.split(".")[0] for name in names(path.read_text())}
        assert not roots & {"stages", *stages}, path


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_an_init_holds_a_docstring_only(path: Path) -> None:
    """DVC hashes files: an __init__ that imports would hide what a stage depends on."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_every_module_says_what_it_is_for() -> None:
    assert [module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


# Stages


@pytest.mark.parametrize("name", DAG)
def test_a_stage_depends_on_the_code_that_its_script_reaches(name: str) -> None:
    script, deps = commands()[name]
    assert [dep for dep in deps if dep.endswith(".py") or dep.startswith(FOLDER)] == [f"{FOLDER}/{script}"]
    check_links(REPOSITORY / "stages" / f"{script}.py", REPOSITORY)


def test_links_are_there_for_scripts_alone() -> None:
    assert {folder.name for folder in (REPOSITORY / FOLDER).iterdir()} == {path.stem for path in STAGES}


RUN_A_STAGE = """
import os, runpy, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
runpy.run_path(f"{sys.argv[1]}/stages/match.py", run_name="__main__")
"""


def test_links_that_are_out_of_date_stop_a_stage(tmp_path: Path) -> None:
    for name in ("deme_core", "stages"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    script, links = tmp_path / "stages" / "match.py", tmp_path / FOLDER / "match"
    write_links(tmp_path)
    check_links(script, tmp_path)
    assert (links / "deme_core" / "stage.py").read_text() == (REPOSITORY / "deme_core" / "stage.py").read_text()

    def refused(path: str) -> None:
        with pytest.raises(InputError, match=f"closures/match/{path}: .* run `python -m deme_core.code_links`"):
            check_links(script, tmp_path)
        done = python(RUN_A_STAGE, tmp_path)
        assert done.returncode == 1
        assert f"closures/match/{path}" in done.stderr
        write_links(tmp_path)
        check_links(script, tmp_path)

    script.write_text(script.read_text() + "\nfrom deme_core.data import idx as idx\n")
    refused("deme_core/data/idx.py")
    (links / "deme_core" / "stage.py").unlink()
    refused("deme_core/stage.py")
    (links / "deme_core" / "report.py").symlink_to("nowhere")
    refused("deme_core/report.py")
    (links / "deme_core" / "stage.py").unlink()
    shutil.copy(tmp_path / "deme_core" / "stage.py", links / "deme_core" / "stage.py")  # a copy, no link
    refused("deme_core/stage.py")


def test_every_script_is_a_stage_and_every_stage_has_its_script() -> None:
    assert {script for script, _ in commands().values()} == {path.stem for path in STAGES}
    for name, (script, _) in commands().items():
        assert name == script or name.startswith(f"{script}_")  # merge, merge_uniform, merge_baseline share one script


def test_params_of_a_stage_are_sections_or_top_level_keys_that_exist() -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for name, stage in DAG.items():
        unknown = set(stage.get("do", stage).get("params", [])) - set(params)
        assert unknown == set(), name


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_depends_on_the_params_that_its_script_reads(path: Path) -> None:
    """`section(params, "x", …)` and `params["x"]` read section x; `run_params` reads the top-level keys N, p, …"""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    sections = {
        node.args[1].value
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "section" and isinstance(node.args[1], ast.Constant)
    }
    sections |= {
        node.slice.value
        for node in nodes
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
        and isinstance(node.slice, ast.Constant)
    }
    uses = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr in RunParams.__dataclass_fields__
        and "run_params" in {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        and not (isinstance(node.value, ast.Name) and node.value.id == "ranges")
    }  # fmt: skip
    for name, (script, _) in commands().items():
        if script == path.stem:
            declared = set(DAG[name].get("do", DAG[name]).get("params", []))
            assert sections | uses <= declared, name


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_script_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


# What a file reaches


def test_the_closure_of_a_package_made_by_hand(tmp_path: Path) -> None:
    files = {
        "tool/__init__.py": "import tool.alone",
        "tool/top.py": "import os, tool.low.first\nfrom tool.low import second\nfrom json import tool",
        "tool/low/__init__.py": "",
        "tool/low/first.py": "def f():\n    if f:\n        from tool.inner import f as g  # late, a name",
        "tool/low/second.py": "from tool.low.first import *\nfrom tool.low.nothing import x\nimport toolbox",
        "tool/inner.py": "from tool import top  # in a circle",
        "tool/alone.py": "import tool.inner",
        "toolbox.py": "import tool.alone",
        "script.py": "# import tool.alone\ntext = 'import tool.alone'\nimport tool.low.second as s, toolbox",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    circle = {"tool/top.py", "tool/low/first.py", "tool/low/second.py", "tool/inner.py"}
    expected = {
        "script.py": {"script.py", *circle},
        "tool/inner.py": circle,
        "tool/alone.py": {"tool/alone.py", *circle},
        "tool/__init__.py": {"tool/__init__.py", "tool/alone.py", *circle},
    }
    for name, files_of_it in expected.items():
        found = closure(tmp_path / name, tmp_path / "tool")
        assert found == sorted(tmp_path / file for file in files_of_it), name
    (tmp_path / "tool" / "inner.py").write_text("import tool.alone")
    assert tmp_path / "tool" / "alone.py" in closure(tmp_path / "script.py", tmp_path / "tool")


def test_what_is_loaded_when_a_stage_is_imported_is_in_its_closure() -> None:
    code = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    for module in [module for module in sys.modules if module.split(".")[0] in ("deme_core", "stages")]:
        del sys.modules[module]
    importlib.import_module(f"stages.{name}")
    print(json.dumps([name, [module for module in sys.modules if module.startswith("deme_core.")]]))
"""
    run = python(code, REPOSITORY, *(path.stem for path in STAGES))
    assert run.returncode == 0, run.stderr
    loaded = dict(json.loads(line) for line in run.stdout.splitlines())
    assert loaded.keys() == {path.stem for path in STAGES}
    for path in STAGES:
        modules = {module for module in loaded[path.stem] if MODULES[module] not in INITS}
        assert {"deme_core.stage", "deme_core.errors"} <= modules <= {NAMES.get(file) for file in closure(path)}, path


# Unfinished work


WORK = ["deme_core/training/finetune.py", "deme_core/training/scratch.py", "deme_core/sampling/sample.py",
        "deme_core/data/encode.py", "stages/merge_search.py"]  # fmt: skip
TRAINING, SCRATCH, SAMPLING, ENCODING, SEARCH = WORK
ORPHANED = {
    "deme_core/training/loop.py": [TRAINING, SCRATCH],
    "deme_core/training/finetune.py": [TRAINING],
    "deme_core/projection.py": [TRAINING, SAMPLING, ENCODING, SEARCH],
    "deme_core/seeds.py": [TRAINING, SCRATCH, SAMPLING, SEARCH],
    "deme_core/work.py": WORK,
    "deme_core/data/encode.py": [ENCODING],
    "deme_core/search/methods.py": [SEARCH],
    "stages/merge_search.py": [SEARCH],
    "stages/finetune_range.py": [],  # what it hands over is in the identity
    "deme_core/prompts/coco.py": [],
    "deme_core/data/idx.py": [],
    "deme_core/report/tables.py": [],
    "deme_core/__init__.py": [],
}


def test_a_change_of_code_orphans_the_unfinished_work_that_reaches_it_and_no_other(tmp_path: Path) -> None:
    for name in ("deme_core", "stages"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import json, sys
from pathlib import Path
root, work, files = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, str(root))
from deme_core.work import work_dir
def folders(label="x", seed=0):
    return [str(work_dir(label, {"seed": seed}, str(root / own))) for own in work]
first = folders()
orphaned = {}
for file in files:
    text = (root / file).read_text()
    (root / file).write_text(text + "# another version")
    orphaned[file] = [own for own, before, after in zip(work, first, folders()) if before != after]
    (root / file).write_text(text)
print(json.dumps([first, folders(), folders("y"), folders("x", 1), orphaned]))
"""
    run = python(code, tmp_path, json.dumps(WORK), json.dumps([*ORPHANED]))
    assert run.returncode == 0, run.stderr
    first, again, labelled, seeded, orphaned = json.loads(run.stdout)
    assert first == again
    assert len({*first, *labelled, *seeded}) == 3 * len(WORK)
    assert first[0].startswith(".checkpoints/x-")
    assert orphaned == ORPHANED


@pytest.mark.parametrize("path", WORK)
def test_who_keeps_unfinished_work_says_with_which_code(path: str) -> None:
    nodes = ast.walk(ast.parse((REPOSITORY / path).read_text()))
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "work_dir"]
    assert {ast.unparse(call.args[2]) for call in calls} == {"__file__"}


def test_cheap_stages_do_not_import_diffusers() -> None:
    code = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for stage in sys.argv[2:]:
    importlib.import_module(stage)
    heavy = {"diffusers", "transformers", "accelerate"} & set(sys.modules)
    print(stage, *sorted(heavy))
"""
    run = python(code, REPOSITORY / "stages", *CHEAP)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == CHEAP
