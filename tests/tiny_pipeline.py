"""A DVC pipeline of shell commands, for the tests of what runs it: base -> e@1, e@2, other -> join."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

BEGIN = 'echo "begin $DVC_STAGE" >> log; '
END = '; echo "end $DVC_STAGE" >> log'
PIPELINE = f"""
stages:
  base:
    cmd: '{BEGIN} cat source > base {END}'
    deps: [source]
    outs: [base]
  e:
    foreach: [1, 2]
    do:
      # Asked to, one waits for the other; or fails; or goes on for long.
      cmd: >-
        {BEGIN} test -z "$MEET" || until grep -q "begin e@$((3 - ${{item}}))" log; do sleep 0.1; done;
        test "$FAIL" != ${{item}} || exit 3; test -z "$SLOW" || sleep 60;
        mkdir -p e; (cat base; echo ${{item}}) > e/${{item}} {END}
      deps: [base]
      outs: ["e/${{item}}"]
  other:
    cmd: '{BEGIN} cp base other {END}'
    deps: [base]
    outs: [other]
  join:
    cmd: '{BEGIN} cat e/* other > join {END}'
    deps: [e, other]
    outs: [join]
"""
NEEDS = {"base": [], "e@1": ["base"], "e@2": ["base"], "other": ["base"], "join": ["e@1", "e@2", "other"]}


def make_pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository in which nothing has run, and what DVC keeps of its own inside it."""
    folder.mkdir(parents=True)
    for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(f"DVC_{name}", str(folder / ".dvc" / "tmp" / name))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    Repo.init(str(folder)).close()
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "source").write_text("source\n")
    (folder / ".gitignore").write_text("/base\n/e\n/other\n/join\n/log\n")
    return folder


def deme_repro(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """`deme repro`, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "deme_core", "repro", *words], cwd=folder, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def marks(folder: Path) -> list[str]:
    """What its stages have said so far, one after the other."""
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def locked(folder: Path) -> dict[str, Any]:
    """Every stage in dvc.lock."""
    return yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
