"""What a file reaches, and what becomes of unfinished work when that changes."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from code_shape import INITS, MODULES, NAMES, STAGES
from conftest import REPOSITORY, python

from deme_core.closure import closure

CHEAP = ["task_vector", "evaluate", "features", "reference", "data"]


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
