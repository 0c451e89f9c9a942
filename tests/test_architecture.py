"""The shape of the code: imports point down, stages depend on what they reach, and cheap stages stay cheap.

Layers, from the top: stages > analysis, report, preflight, explore > search > merging, training, sampling, metrics >
data, prompts, launching > the files at the root of deme_core. A module may import its own layer and those below, at the
top of the file or inside a function.
"""

import ast
import re
import shutil
from pathlib import Path

import pytest
import yaml
from code_shape import INITS, MODULES, NAMES, STAGES
from conftest import REPOSITORY, python

from deme_core.closure import closure, imported, names
from deme_core.code_links import FOLDER, check_links, write_links
from deme_core.errors import InputError
from deme_core.stage import RunParams

LAYERS = (
    {""},
    {"data", "prompts", "launching"},
    {"merging", "training", "sampling", "metrics"},
    {"search"},
    {"analysis", "report", "preflight", "explore"},
)

CODE = [module for module, path in MODULES.items() if path not in INITS]

DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


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
        for key in stage.get("do", stage).get("params", []):
            section, _, inside = key.partition(".")
            assert section in params and (not inside or inside in params[section]), (name, key)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_depends_on_the_params_that_its_script_reads(path: Path) -> None:
    """`section(params, "x", …)` and `params["x"]` read section x; `run_params` reads the top-level keys N, p, …, and
    `eq_8` one key of a section."""
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
    if any(isinstance(call.func, ast.Name) and call.func.id == "eq_8" for call in calls):
        uses.add("merge.dtype")
    for name, (script, _) in commands().items():
        if script == path.stem:
            declared = set(DAG[name].get("do", DAG[name]).get("params", []))
            whole = {key for key in uses if key.partition(".")[0] in declared}
            unread = {"baselines"} if name == "gate_own" else set()  # it compares with none, see below
            assert sections | uses - whole - unread <= declared, name


def test_a_gate_depends_on_the_list_of_baselines_only_where_it_compares_with_one() -> None:
    gates = [stage for name in ("gate", "gate_own") for stage in [DAG[name].get("do", DAG[name])]]
    assert ["baselines" in stage["params"] for stage in gates] == ["--full-range" in stage["cmd"] for stage in gates]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_stage_script_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_no_test_imports_from_a_file_of_tests() -> None:
    """What several need stands in conftest.py or in a module beside them."""
    for file in sorted((REPOSITORY / "tests").glob("*.py")):
        found = re.findall(r"^\s*(?:from|import) (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert not found, f"{file.name} imports {', '.join(found)}"


def test_what_reads_proc_is_skipped_where_there_is_none() -> None:
    for file in sorted({*(REPOSITORY / "tests").glob("test_*.py")} - {Path(__file__)}):
        text = file.read_text(encoding="utf-8")
        assert "/proc" not in text or "@reads_proc" in text, file.name
        for node in ast.parse(text).body:
            reads = re.search(r'"/proc|\blies_in\(', ast.get_source_segment(text, node) or "")
            if reads and isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert "reads_proc" in {ast.unparse(mark) for mark in node.decorator_list}, f"{file.name}: {node.name}"


def test_no_variable_is_called_own_or_round() -> None:
    """`own` does not say what it is, and `round` hides the builtin."""
    folders = ("deme_core", "stages", "studies", "benchmarks", "conf", "zoo", "hydra_plugins")
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for folder in folders
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.arg) and node.arg in ("own", "round"))
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in ("own", "round"))
    ]
    assert found == []
