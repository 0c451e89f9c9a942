"""The shape of the code: imports point down, stages depend on what they reach, and cheap stages stay cheap.

Layers, from the top: stages > report > merging, training, sampling, metrics > data, prompts > the files at the root
of deme_core. A module may import its own layer and those below, at the top of the file or inside a function.
"""

import ast
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, python

from deme_core.stage import RunParams
from deme_core.work import work_dir

LAYERS = ({""}, {"data", "prompts"}, {"merging", "training", "sampling", "metrics"}, {"report"})
STAGES = sorted((REPOSITORY / "stages").glob("*.py"))
MODULES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((REPOSITORY / "deme_core").rglob("*.py"))
}
INITS = [path for path in MODULES.values() if path.name == "__init__.py"]
CODE = [module for module, path in MODULES.items() if path not in INITS]
DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
CHEAP = ["task_vector", "evaluate", "features", "reference", "data"]


def imports(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, anywhere in it; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """The modules of deme_core among a file's imports, packages left out: their __init__ holds a docstring only."""
    found = set()
    for name in imports(path):
        module = name if name in MODULES else name.rpartition(".")[0]
        if module in MODULES and MODULES[module] not in INITS:
            found.add(module)
    return frozenset(found)


def reached(path: Path) -> set[str]:
    """The modules of deme_core that a file imports, and those that these import, and so on."""
    found: set[str] = set()
    todo = set(imported_modules(path))
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= imported_modules(MODULES[module]) - found
    return found


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
    names = {path.stem for path in STAGES}
    folders = ("zoo", "hydra_plugins", "conf", "studies")
    others = [path for folder in folders for path in (REPOSITORY / folder).glob("*.py")]
    for path in (*MODULES.values(), *STAGES, *others):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"stages", *names}, path


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
def test_the_code_deps_of_a_stage_are_what_its_script_reaches(name: str) -> None:
    script, deps = commands()[name]
    path = REPOSITORY / "stages" / f"{script}.py"
    expected = {f"stages/{script}.py"} | {
        MODULES[module].relative_to(REPOSITORY).as_posix() for module in reached(path)
    }
    code = [dep for dep in deps if dep.endswith(".py")]
    assert sorted(code) == sorted(expected)


def test_every_script_is_a_stage_and_every_stage_has_its_script() -> None:
    assert {script for script, _ in commands().values()} == {path.stem for path in STAGES}
    for name, (script, _) in commands().items():
        assert name == script or name.startswith(f"{script}_")  # merge, merge_uniform, merge_rival share one script


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


# Unfinished work


def test_unfinished_work_of_other_code_or_other_input_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REPOSITORY / "deme_core", tmp_path / "deme_core")
    monkeypatch.setattr("deme_core.work.__file__", str(tmp_path / "deme_core" / "work.py"))
    before = work_dir("x", {"seed": 0})
    assert before.name.startswith("x-")
    assert before == work_dir("x", {"seed": 0})
    assert len({before, work_dir("x", {"seed": 1}), work_dir("y", {"seed": 0})}) == 3
    found = [before]
    modules = [path.relative_to(REPOSITORY / "deme_core") for path in MODULES.values()]
    for module in (path for path in modules if path.parts[0] != "report"):
        with (tmp_path / "deme_core" / module).open("a") as file:
            file.write("# another version\n")
        found.append(work_dir("x", {"seed": 0}))
    assert len(set(found)) == len(found) > 30
    (tmp_path / "deme_core" / "report" / "tables.py").write_text("# another table\n")
    assert work_dir("x", {"seed": 0}) == found[-1]


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
