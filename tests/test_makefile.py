"""`make`, before anything is installed: which Python, which folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

OLD = """#!/bin/sh
case "$*" in *--version*) echo Python 3.9.2 ;; *) exit 1 ;; esac
"""  # stands for an interpreter that is not installed here: whatever it is asked, it is too old


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `git init` leaves it, with a Python that is too old."""
    (tmp_path / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    write_program(tmp_path / "old", OLD)
    return tmp_path


def write_program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """It fails: no package is to be had."""
    # The tests themselves may run below a make, which a second one would take for its parent.
    given = ("VENV", "PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in given}
    done = subprocess.run(
        ["make", *words],
        cwd=folder,
        env=environment | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode != 0
    return done


def test_a_python_that_is_too_old_is_one_line_and_leaves_nothing(folder: Path) -> None:
    said = make(folder, "PYTHON=./old")
    assert said.stdout == (
        "error: Python 3.11 or newer is needed, PYTHON is ./old, Python 3.9.2; make PYTHON=python3.12\n"
    )
    assert not (folder / ".venv").exists()


def test_a_venv_of_an_older_python_is_made_anew(folder: Path) -> None:
    for name in ("python", "python3"):
        write_program(folder / ".venv" / "bin" / name, OLD)
    (folder / ".venv" / "pyvenv.cfg").touch()
    make(folder, f"PYTHON={sys.executable}")
    asked = [folder / ".venv" / "bin" / "python", "-c", "import sys; print(sys.version_info[:2])"]
    assert subprocess.check_output(asked, text=True) == f"{sys.version_info[:2]}\n"


def test_only_a_venv_is_cleared(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "kept").touch()
    make(folder, f"PYTHON={sys.executable}", "VENV=mine")
    assert (folder / "mine" / "kept").exists() and (folder / "mine" / "pyvenv.cfg").exists()


def test_a_downloaded_archive_is_told_what_it_lacks(folder: Path) -> None:
    (folder / ".git").rmdir()
    said = make(folder, "demo")
    assert said.stdout == "error: DVC needs a git repository, and this folder is none; git clone it, or git init\n"
    assert not (folder / ".venv").exists()
