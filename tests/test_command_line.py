"""The command `deme`: it lists what there is, hands over, and says which commands need a checkout."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from commands import command
from conftest import REPOSITORY, N, files_of, python

from deme_core.__main__ import COMMANDS
from deme_core.command_line import command_line

ALONE = {"merge": ["-m", "deme_core.merging"], "features": ["-m", "deme_core.metrics"], "check": ["conf/check.py"],
         "samplers": ["-m", "deme_core.report.samplers"], "calls": ["-m", "deme_core.report.calls"],
         "study": ["-m", "studies.run"], "repro": ["-m", "deme_core.launching.repro"],
         "explore": ["-m", "deme_core.explore"]}  # fmt: skip


def deme(*words: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deme_core", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_help_lists_every_command_at_once() -> None:
    done = python(
        "import sys\nfrom deme_core.__main__ import main\nsys.argv = ['deme', '--help']\n"
        "try:\n    main()\nfinally:\n    print({'torch', 'numpy'} & set(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    for name, one in COMMANDS.items():
        assert re.search(rf"^    {name} +{re.escape(one.says)}$", done.stdout, re.M), done.stdout
    assert done.stdout.endswith("set()\n")  # nothing that takes seconds to import


def test_the_project_installs_it() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["deme"].split(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_its_modules_and_has_examples_under_either_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    ours, alone = command("-m", "deme_core", name, "--help"), command(*ALONE[name], "--help")
    assert ours.returncode == 0, ours.stderr
    assert alone.returncode == 0, alone.stderr
    program = " ".join(["python", *ALONE[name]])
    for text, called in ((ours.stdout, f"deme {name}"), (alone.stdout, program)):
        assert text.startswith(f"usage: {called} "), text
        options, _, examples = text.partition("\nexamples:\n")
        assert examples
        for example in examples.splitlines():
            assert example.startswith(f"  {called} ")
            assert all(option in options for option in re.findall(r"--[a-z-]+", example)), example


def test_a_merge_by_deme_is_that_of_the_module(pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    words = ["--base", pipeline, "--experts", *experts, "--weights", *[0.25] * N]
    done = deme("merge", *words, "--out", tmp_path / "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "deme_core.merging", *map(str, words), "--out", str(tmp_path / "b")]
    subprocess.run(command, check=True, capture_output=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != {}


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if one.checkout])
def test_a_command_that_needs_a_checkout_says_so_elsewhere(name: str, tmp_path: Path) -> None:
    done = deme(name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: deme {name}: {tmp_path} is no checkout of the repository, [^\n]*\n", done.stderr)


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if one.checkout])
def test_its_help_says_so_too_and_what_it_is_for(name: str, tmp_path: Path) -> None:
    done = deme(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: deme {name} ") and COMMANDS[name].says in done.stdout


@pytest.mark.parametrize("number", ["-1", "-1.", "-.5", "-5e-1", "-1E+2", "-1.5e3"])
def test_a_negative_number_is_no_option_however_it_is_written(number: str) -> None:
    parser = command_line("x", None)
    parser.add_argument("--weights", type=float, nargs="+")
    parser.add_argument("--block", nargs="+")
    args = parser.parse_args(["--weights", number, "0.5", "--block", "mid_block", number])
    assert args.weights == [float(number), 0.5] and args.block == ["mid_block", number]
    with pytest.raises(SystemExit):
        parser.parse_args(["--weights", "0.5", "-e1"])


def test_a_mistake_in_a_command_ends_in_one_line(tmp_path: Path) -> None:
    done = deme("merge", "--base", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: no such directory")
    assert done.stderr.count("\n") == 1
