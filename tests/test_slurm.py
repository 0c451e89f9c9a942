"""Trainings as jobs of a real SLURM: killed, requeued, left and found again, they end in the same bytes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import files_of
from local_slurm import lacks, slurm
from tiny_pipeline import deme_repro, locked
from toy_run import change_params, dvc, make_toy, repro

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
CHANGES = {"finetune_range": {"iterations": 100, "checkpoint_every": 5, "log_every": 5}}
MADE = ("models/n2/ensemble", "models/n2/curves", "models/n2/vectors")
JOBS = {"finetune_range": {"run": "slurm", "partition": "debug", "cpus": 1, "time": "0:20:00"}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if missing := lacks():
        pytest.skip(f"not installed: {', '.join(missing)}; apt-get install slurm-wlm munge")
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def prepared(pipeline: Path, extractor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run before its trainings."""
    project = make_toy(tmp_path_factory.mktemp("toy") / "project", pipeline, extractor_dir)
    change_params(project, CHANGES)
    repro(project, "encode")
    return project


@pytest.fixture(scope="module")
def here(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after them, all by `dvc repro`."""
    project = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("here") / "project", symlinks=True))
    repro(project, "task_vector")
    return project


@pytest.fixture
def project(prepared: Path, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy whose trainings are jobs, and the working directory."""
    folder = Path(shutil.copytree(prepared, tmp_path / "project", symlinks=True))
    (folder / "launch.yaml").write_text(yaml.safe_dump(JOBS))
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(f"DVC_{name}", str(folder / ".dvc" / "tmp" / name))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


def made(folder: Path) -> dict[str, str]:
    return {f"{name}/{file}": value for name in MADE for file, value in files_of(folder / name).items()}


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


def squeue(what: str) -> dict[str, str]:
    """Stage -> a field of its job that has not ended."""
    said = subprocess.run(["squeue", "--noheader", f"--format=%j {what}"], capture_output=True, text=True, check=True)
    return {name.rpartition("-")[0]: value for name, value in map(str.split, said.stdout.splitlines())}


def saved(trainings: int) -> bool:
    """Whether so many trainings have something to go on from."""
    return len(list(Path(".checkpoints").glob("finetune-*/state.safetensors"))) >= trainings


def hurry(job: str) -> None:
    """SLURM lets a job that was queued again wait for two minutes: this one for two seconds.

    Not for less: a node refuses a job of the very second in which its last run ended.
    """
    until(lambda: "PENDING" in squeue("%T").values())
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], check=True)


def train(k: int) -> subprocess.Popen[str]:
    """The command of a training, as DVC runs it, in a group of its own."""
    (command,) = (one["cmd"] for name, one in commands().items() if name == f"finetune_range@{k}")
    return subprocess.Popen(
        f"exec {command.replace('python', sys.executable, 1)}", shell=True, text=True, start_new_session=True,
        env=os.environ | {"DVC_STAGE": f"finetune_range@{k}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def single(stage: str) -> subprocess.Popen[str]:
    """`dvc repro` of a stage alone, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", stage], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def commands() -> dict[str, dict[str, str]]:
    from dvc.repo import Repo

    return {stage.addressing: {"cmd": stage.cmd} for stage in Repo().index.stages}


def test_two_jobs_at_a_time_one_killed_and_one_requeued(project: Path, here: Path) -> None:
    first = deme_repro(project, "--jobs", "2", "task_vector")
    until(lambda: saved(2))
    assert squeue("%T") == {"finetune_range@1": "RUNNING", "finetune_range@2": "RUNNING"}
    jobs = squeue("%i")
    subprocess.run(["scancel", "--signal=KILL", jobs["finetune_range@1"]], check=True)
    subprocess.run(["scontrol", "requeue", jobs["finetune_range@2"]], check=True)
    hurry(jobs["finetune_range@2"])
    said, _ = first.communicate(timeout=400)
    assert first.returncode == 1
    assert re.search(
        rf"failed: finetune_range@1: error: SLURM job {jobs['finetune_range@1']} ended as \w+ without", said
    )
    assert "not run, since they need it: task_vector@1" in said
    assert f"[finetune_range@2] SLURM job {jobs['finetune_range@2']}: pending" in said  # it was queued again
    assert set(locked(project)) >= {"finetune_range@2", "task_vector@2"}

    again = deme_repro(project, "--jobs", "2", "task_vector")
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert "2 of 8 stages ran" in said
    assert made(project) == made(here) != {}
    assert locked(project) == locked(here)
    assert "up to date" in dvc(here, "status", "task_vector").stdout


def test_a_job_whose_submitter_was_killed_is_found(project: Path, here: Path) -> None:
    lost = train(1)
    until(lambda: saved(1))
    os.killpg(lost.pid, signal.SIGKILL)
    lost.communicate()
    job = squeue("%i")["finetune_range@1"]
    again = train(1)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert said.startswith(f"attached to SLURM job {job}, ")
    assert ": submitted" not in said and "finetune_range: range 1 of 2" in said
    assert files_of(Path("models/n2/ensemble/1")) == files_of(here / "models/n2/ensemble/1")


def test_an_attached_job_that_had_written_part_of_its_outputs_writes_all(project: Path, here: Path) -> None:
    folder, curve = Path("models/n2/ensemble/1"), Path("models/n2/curves/1.csv")
    lost = single("finetune_range@1")
    until(lambda: saved(1))
    curve.parent.mkdir(parents=True)
    os.mkfifo(curve)  # amid its outputs the job waits for a reader
    os.link(curve, "kept")  # that DVC does not delete
    until(lambda: len(files_of(folder)) == len(files_of(here / folder)))
    os.killpg(lost.pid, signal.SIGKILL)
    lost.communicate()
    again, said = single("finetune_range@1"), ""
    while "attached to SLURM job" not in said and (line := again.stdout.readline()):
        said += line
    assert not folder.exists()  # DVC has deleted it
    Path("kept").read_text()
    rest, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said + rest
    assert "are gone: done once more" in rest and ": submitted" not in said + rest
    assert files_of(folder) == files_of(here / folder) != {}
    assert curve.read_bytes() == (here / curve).read_bytes()
    assert locked(project)["finetune_range@1"] == locked(here)["finetune_range@1"]


def test_a_job_of_other_params_is_not_taken_for_this_one(project: Path) -> None:
    lost = train(1)
    until(lambda: squeue("%T") == {"finetune_range@1": "RUNNING"})
    os.killpg(lost.pid, signal.SIGKILL)
    lost.communicate()
    job = squeue("%i")["finetune_range@1"]
    change_params(project, {"seed": 7, "finetune_range": {"iterations": 5}})
    again = train(1)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert said.startswith(f"SLURM job {job} is of other params, code or input: cancelled")
    assert squeue("%i") == {}


def test_interrupted_it_cancels_its_job(project: Path) -> None:
    running = train(2)
    until(lambda: saved(1))
    os.killpg(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert re.search(r"SLURM job \d+: cancelled\n$", said)
    assert squeue("%i") == {}


def test_before_its_time_limit_a_job_is_queued_again_and_goes_on(project: Path, here: Path) -> None:
    running = train(2)
    until(lambda: saved(1))
    job = squeue("%i")["finetune_range@2"]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # what SLURM sends before the limit
    hurry(job)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert f"Requeued job {job}" in said
    assert re.search(r"range 2 of 2, .*: told to end, saved at step \d+", said)
    assert "Starting with" in said.split("Requeued job")[1]
    assert files_of(Path("models/n2/ensemble/2")) == files_of(here / "models/n2/ensemble/2")


def test_a_stage_that_fails_in_its_job_fails_here(project: Path) -> None:
    (project / "models/pretrained/unet/config.json").unlink()
    running = train(1)
    said, _ = running.communicate(timeout=200)
    assert running.returncode == 1
    assert re.search(r"^error: .*config.json", said, re.M)


def test_what_slurm_refuses_is_one_line(project: Path) -> None:
    (project / "launch.yaml").write_text(
        json.dumps({"default": {"run": "slurm", "partition": "none", "time": "0:20:00"}})
    )
    running = train(1)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "invalid partition" in errors[0]
