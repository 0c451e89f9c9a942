"""`deme repro --jobs 2` of a whole run, killed at random moments and called again, ends as `dvc repro` does."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import files_of, reads_proc
from tiny_pipeline import deme_repro, locked
from toy_run import dvc, make_toy, repro

KILLS, SEED = 5, 0
STAGES, SECONDS = (1, 6), (0.0, 8.0)  # between which a kill comes: stages begun since the last one, then seconds


def end_all(folder: Path) -> int:
    """Kill whatever runs in a folder, as a power cut would; how many processes that were."""
    killed = set[int]()
    while found := {int(cwd.parent.name) for cwd in Path("/proc").glob("[0-9]*/cwd") if leads_to(cwd, folder)}:
        for number in found:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed |= found
        time.sleep(0.05)
    return len(killed)


def leads_to(link: Path, folder: Path) -> bool:
    try:
        return link.readlink() == folder
    except OSError:  # it has ended
        return False


def outputs(folder: Path) -> dict[str, object]:
    """Out of a stage -> the hashes of its files."""
    outs = [out["path"] for stage in locked(folder).values() for out in stage.get("outs", ())]
    return {out: files_of(folder / out) if (folder / out).is_dir() else (folder / out).read_bytes() for out in outs}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@reads_proc
def test_killed_at_random_moments_it_ends_in_the_same_bytes(
    pipeline: Path, extractor_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(SEED)
    project = make_toy(tmp_path / "killed", pipeline, extractor_dir)
    for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(f"DVC_{name}", str(project / ".dvc" / "tmp" / name))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for _ in range(KILLS):
        running, begun, wanted = deme_repro(project, "--jobs", "2"), 0, draw.randint(*STAGES)
        while begun < wanted and (line := running.stdout.readline()):
            begun += "Running stage" in line
        assert begun == wanted, running.communicate()[0]
        time.sleep(draw.uniform(*SECONDS))
        assert running.poll() is None, "it ended by itself: fewer STAGES or SECONDS"
        assert end_all(project) >= 2
        assert running.wait() == -signal.SIGKILL
    last = deme_repro(project, "--jobs", "2")
    said, _ = last.communicate(timeout=5400)
    assert last.returncode == 0, said[-5000:]

    plain = make_toy(tmp_path / "plain", pipeline, extractor_dir)
    repro(plain)
    assert locked(project) == locked(plain)
    assert outputs(project) == outputs(plain) != {}
    assert "up to date" in dvc(project, "status").stdout
