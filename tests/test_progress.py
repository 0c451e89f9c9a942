"""Progress: whole lines in a log, few of them, the last of which says that all is done; a bar on a terminal."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import REPOSITORY, python

from deme_core import progress as module
from deme_core.closure import names
from deme_core.progress import progress

DECODE = """
from deme_core.data.decode import decode_all
from deme_core.data.images import DataParams
import io, numpy as np
from PIL import Image
file = io.BytesIO()
Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "png")
params = DataParams(source="folder", path="x", size=8, held_out=0.0, grey=True)
decode_all([(f"{k}.png", file.getvalue) for k in range(4000)], 4000, params)
"""


def on_a_terminal(code: str) -> str:
    """What code writes to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while more := os.read(ours, 4096):
            said += more
    except OSError:  # Linux ends a terminal whose last process has gone so
        pass
    assert child.wait() == 0, said
    return said.decode()


def test_a_log_gets_one_line_of_short_work_and_it_says_that_all_is_done() -> None:
    done = python(DECODE)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("images: 100 %, 4000/4000 [")


def test_a_terminal_gets_a_bar() -> None:
    said = on_a_terminal(DECODE)
    assert "\rimages:   0%|" in said
    assert "| 4000/4000 [" in said
    assert said.count("\n") == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that progress goes by, in its one entry."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_long_work_says_how_far_it_is_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(range(400, 1000), desc="range 1", unit="step", initial=400, total=1000)
    for step in bar:
        clock[0] += 0.125
        bar.set_postfix(loss=f"{step}")
    assert capsys.readouterr().err.splitlines() == [
        "range 1: 64 %, 640/1000 [00:30<00:45,  8.00step/s, loss=639]",
        "range 1: 88 %, 880/1000 [01:00<00:15,  8.00step/s, loss=879]",
        "range 1: 100 %, 1000/1000 [01:15<00:00,  8.00step/s, loss=999]",
    ]


def test_what_is_updated_by_hand_is_closed_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress(total=4e6, desc="merging", unit="B", unit_scale=True) as bar:
        bar.update(1e6)
        clock[0] += 30
        bar.update(1e6)
        clock[0] += 30
        bar.update(2e6)
        bar.close()
    assert [line.split(" [")[0] for line in capsys.readouterr().err.splitlines()] == [
        "merging: 50 %, 2.00M/4.00M",
        "merging: 100 %, 4.00M/4.00M",
    ]


def test_work_that_stops_half_way_says_where(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def stops() -> None:
        for k in progress(iter(range(10)), desc="images", unit="image", total=10):
            if k == 3:
                raise ValueError

    with pytest.raises(ValueError):
        stops()
    assert capsys.readouterr().err.startswith("images: 30 %, 3/10 [")


def test_of_no_work_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([], desc="sampling", unit="archive")) == []
    assert capsys.readouterr().err == ""


def test_of_several_processes_one_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], desc="sampling", unit="archive", disable=True)) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_there_is_one_way_to_show_progress() -> None:
    folders = ("deme_core", "stages", "studies", "benchmarks", "zoo", "conf")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    using = {file for file in files if any(name.split(".")[0] == "tqdm" for name in names(file.read_text()))}
    assert using == {Path(module.__file__)}
