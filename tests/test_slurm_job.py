"""What a SLURM job does with a stage's command, without SLURM: told to end, and attached to amid its outputs."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deme_core.launching.settings import Launch
from deme_core.launching.slurm import Work, preemption, seconds_before

pytest.importorskip("submitit")
# Writes one output, and the other once it may go on; told to end, it saves.
COMMAND = """
trap 'echo saved > saved; exit 143' TERM
echo begin >> log; mkdir -p out; echo 1 > out/1
until test -e go; do sleep 0.05; done
echo 2 > out/2; echo end >> log
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Of the command, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Work(["bash", "-c", COMMAND], 1, tmp_path / "anew", 30)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def made() -> dict[str, str]:
    return {file.name: file.read_text() for file in Path("out").glob("*")}


def test_whoever_attaches_gets_all_outputs(work: Work) -> None:
    work.anew.touch()  # of a job before: DVC deletes nothing any more that this one writes
    with ThreadPoolExecutor() as pool:
        status = pool.submit(work)
        until(Path("out/1").exists)
        Path("out/1").unlink()  # by DVC, before it runs the stage again, whose process attaches
        Path("out").rmdir()
        work.anew.touch()
        Path("out").mkdir()  # so that what it writes next succeeds: the folder is there, and is not whole
        Path("go").touch()
        assert status.result(timeout=60) == 0
    assert made() == {"1": "1\n", "2": "2\n"}
    assert Path("log").read_text().split() == ["begin", "end", "begin", "end"]
    assert not work.anew.exists()


def test_a_job_that_nobody_attached_to_runs_once(work: Work) -> None:
    work.anew.touch()
    Path("go").touch()
    assert work() == 0
    assert Path("log").read_text().split() == ["begin", "end"]


def test_told_to_end_the_command_may_save(work: Work) -> None:
    with ThreadPoolExecutor() as pool:
        status = pool.submit(work)
        until(Path("out/1").exists)
        os.kill(work.child.pid, preemption())  # SLURM signals all of a job; a launcher of processes must live on
        time.sleep(0.2)
        assert work.child.poll() is None
        again = work.checkpoint()
        assert status.result(timeout=60) == 143
    assert Path("saved").exists()
    assert vars(again.function).keys() == vars(Work([], 1, Path(), 0)).keys()
    Path("go").touch()
    assert again.function() == 0  # what the job runs once it was queued again
    assert made() == {"1": "1\n", "2": "2\n"}


def test_when_slurm_signals() -> None:
    assert preemption() == signal.SIGUSR2
    short, long = Launch(run="slurm", time="0:01:00"), Launch(run="slurm", time="4:00:00")
    assert (seconds_before(short), seconds_before(long), seconds_before(Launch())) == (15, 90, 90)
