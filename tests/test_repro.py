"""`deme repro`: stages side by side end as `dvc repro` ends, whatever fails, is interrupted or is in the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import files_of, reads_proc
from tiny_pipeline import NEEDS, deme_repro, locked, make_pipeline, marks

from deme_core.errors import InputError
from deme_core.launching import repro
from deme_core.launching.devices import share

OUTS = ("base", "e/1", "e/2", "other", "join")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny pipeline, and the working directory."""
    folder = make_pipeline(tmp_path / "project", monkeypatch)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def side_by_side(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, in this process; its exit status."""

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["deme repro", *words])
        with pytest.raises(SystemExit) as ended:
            repro.main()
        return int(ended.value.code or 0)

    return call


def outs(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in OUTS if (folder / name).exists()}


EXPECTED = {
    "base": "source\n", "e/1": "source\n1\n", "e/2": "source\n2\n", "other": "source\n",
    "join": "source\n1\nsource\n2\nsource\n",
}  # fmt: skip


def test_it_ends_as_dvc_repro_does(
    project: Path, side_by_side: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("MEET", "1")  # each of e@1 and e@2 ends only if both run at a time
    assert side_by_side("--jobs", "2") == 0
    log = marks(project)
    assert sorted(log) == sorted(f"{word} {name}" for word in ("begin", "end") for name in NEEDS)
    for name, needs in NEEDS.items():
        assert all(log.index(f"end {need}") < log.index(f"begin {name}") for need in needs)
    at_once = [sum((word.split()[0] == "begin") * 2 - 1 for word in log[: k + 1]) for k in range(len(log))]
    assert max(at_once) == 2
    said = capfd.readouterr().out.splitlines()
    assert "[e@1] Running stage 'e@1':" in said
    assert said[-1] == "5 of 5 stages ran"

    monkeypatch.delenv("MEET")
    plain = make_pipeline(tmp_path / "plain", monkeypatch)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=plain, check=True)
    assert outs(project) == outs(plain) == EXPECTED
    assert locked(project) == locked(plain)
    assert files_of(project / ".dvc" / "cache" / "files") == files_of(plain / ".dvc" / "cache" / "files") != {}
    assert files_of(project / ".dvc" / "cache" / "runs").keys() == files_of(plain / ".dvc" / "cache" / "runs").keys()

    status = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=project, capture_output=True, text=True)
    assert "up to date" in status.stdout
    assert side_by_side("--jobs", "2") == 0
    assert capfd.readouterr().out == "0 of 5 stages ran\n"
    assert marks(project) == log


def test_a_stage_that_fails_stops_those_behind_it_alone(
    project: Path, side_by_side: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL", "1")
    assert side_by_side("--jobs", "2") == 1
    assert outs(project) == {name: EXPECTED[name] for name in ("base", "e/2", "other")}
    said = capfd.readouterr()
    assert said.out.splitlines()[-1] == "3 of 5 stages ran"
    failed, stopped = said.err.splitlines()[-2:]
    assert failed.startswith("failed: e@1: ERROR: failed to reproduce 'e@1'") and failed.endswith("exited with 3")
    assert stopped == "not run, since they need it: join"
    monkeypatch.delenv("FAIL")
    (project / "log").unlink()
    assert side_by_side("--jobs", "2") == 0
    assert marks(project) == ["begin e@1", "end e@1", "begin join", "end join"]
    assert outs(project) == EXPECTED


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def processes(folder: Path) -> list[str]:
    """The command lines of what else runs in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and process.name != str(os.getpid()):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended
            continue
    return found


@reads_proc
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_it_leaves_nothing_running_and_goes_on(
    project: Path, side_by_side: Callable[..., int], number: int
) -> None:
    running = deme_repro(project, "--jobs", "2", SLOW="1")
    wait_until(lambda: processes(project).count("sleep 60 ") == 2)
    running.send_signal(number)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert "interrupted: e@1 e@2 was stopped" in said or "interrupted: e@2 e@1 was stopped" in said
    assert processes(project) == []
    assert marks(project)[-2:] in (["begin e@1", "begin e@2"], ["begin e@2", "begin e@1"])
    assert set(locked(project)) == {"base"}
    assert not any(json.loads((project / ".dvc" / "tmp" / "rwlock").read_text()).values())
    assert side_by_side("--jobs", "2") == 0
    assert outs(project) == EXPECTED


@reads_proc
def test_interrupted_twice_it_ends_what_does_not_heed_the_first(project: Path) -> None:
    patient = (project / "dvc.yaml").read_text().replace("|| sleep 60", "|| { trap : INT; sleep 61; sleep 60; }")
    (project / "dvc.yaml").write_text(patient)
    running = deme_repro(project, SLOW="1")
    wait_until(lambda: "sleep 61 " in processes(project))
    running.send_signal(signal.SIGINT)
    wait_until(lambda: "sleep 60 " in processes(project))  # it went on
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130
    wait_until(lambda: processes(project) == [])


def test_it_waits_for_what_another_dvc_is_writing(project: Path, side_by_side: Callable[..., int]) -> None:
    assert side_by_side("base") == 0
    lock = project / ".dvc" / "tmp" / "rwlock"
    other = {"pid": os.getpid(), "cmd": "dvc of somebody else"}
    lock.write_text(json.dumps({"write": {str(project / "other"): other}}))
    running = deme_repro(project, "--jobs", "2", "other")
    said = []
    for line in running.stdout or ():
        said.append(line)
        if "waits for another process" in line:
            lock.write_text("{}")
    assert running.wait(timeout=60) == 0
    assert "[other] waits for another process\n" in said
    assert outs(project) == {name: EXPECTED[name] for name in ("base", "other")}


SAME_WORK = """
import sys, time
from pathlib import Path
from deme_core import work
from deme_core.errors import InputError
from deme_core.stage import run

def main() -> None:
    try:
        with work.only_one(work.work_dir("same", {"weights": "equal"}, work.__file__)):
            end = time.monotonic() + 100
            while not Path("refused").exists() and time.monotonic() < end:  # until the other has come
                time.sleep(0.05)
            Path(sys.argv[1]).write_text("made")
    except InputError:
        Path("refused").touch()
        raise

run(main)
"""


def test_stages_of_the_same_work_wait_for_each_other(project: Path) -> None:
    (project / "same.py").write_text(SAME_WORK)
    both = {name: {"cmd": f"{sys.executable} same.py {name}", "deps": ["same.py"], "outs": [name]} for name in "ab"}
    (project / "dvc.yaml").write_text(json.dumps({"stages": both}))
    said, _ = (running := deme_repro(project, "--jobs", "2")).communicate(timeout=240)
    assert running.returncode == 0, said
    assert (project / "refused").exists() and "] waits for another process\n" in said
    assert [(project / name).read_text() for name in both] == ["made", "made"]
    assert said.splitlines()[-1] == "2 of 2 stages ran"


def test_the_order_is_shown_and_nothing_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deme repro", "--jobs", "2", "--dry"])
    repro.main()
    assert capsys.readouterr().out.splitlines() == [
        "  1  base", "  2  e@1 e@2", "  3  other", "  4  join",
        "5 of 5 stages, if each that runs changes all that need it",
    ]  # fmt: skip
    assert marks(project) == []
    monkeypatch.setattr(sys, "argv", ["deme repro", "--dry", "--jobs", "4", "e"])  # both of the group
    repro.main()
    assert capsys.readouterr().out.splitlines()[:2] == ["  1  base", "  2  e@1 e@2"]


@pytest.mark.parametrize(("words", "says"), [(["nothing"], "nothing"), (["--jobs", "0"], "--jobs 0: at least one")])
def test_what_is_asked_wrongly_ends_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["deme repro", *words])
    with pytest.raises(InputError, match=says):
        repro.main()
    assert marks(project) == []


def test_outside_a_repository_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["deme repro"])
    with pytest.raises(InputError, match="dvc: you are not inside of a DVC repository"):
        repro.main()


def test_jobs_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deme_core.launching.devices.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share(0, 3, []) == {"OMP_NUM_THREADS": "2"}
    assert share(0, 9, []) == {"OMP_NUM_THREADS": "1"}
    assert [share(slot, 4, ["0", "5"])["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0", "5", "0", "5"]
    assert [share(slot, 2, list("abcde"))["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["a,b", "c,d"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what the user says stands
    assert share(1, 8, []) == {"OMP_NUM_THREADS": "3"}
