"""What CI makes of long tests that take too long, by programs that stand for all that it calls."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

NOTHING = ("bin/chromium", "bin/sbatch", "bin/make", "bin/dvc", ".ci/newest", ".venv/bin/python")
DEAF = "#!/usr/bin/env python3\nimport signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("tests", "status", "warned"),
    [
        ("#!/bin/sh\nexit 0\n", 0, False),
        ("#!/bin/sh\nexit 1\n", 1, False),
        ("#!/bin/sh\nexec sleep 60\n", 0, True),
        (DEAF, 0, True),
    ],
    ids=["pass", "fail", "interrupted", "killed"],
)
def test_what_takes_too_long_is_no_failure(tests: str, status: int, warned: bool, tmp_path: Path) -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    hasty = script.replace('--kill-after 60 "$1"', "--kill-after 2 2")
    assert hasty != script
    programs = dict.fromkeys(NOTHING, "#!/bin/sh\n") | {".ci/run": hasty, ".venv/bin/pytest": tests}
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [".ci/run"], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == status, done.stderr
    for what in ("SLURM", "whole toy runs"):
        assert (f"warning: the tests of {what} were not done" in done.stdout) == warned
