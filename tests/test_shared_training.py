"""A training on two processes of a CPU (gloo): the stages' own commands, killed and resumed, against one process."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import ARCHITECTURE, REPOSITORY, files_of, reads_proc, stage

from deme_core.checkpoints import WEIGHTS
from deme_core.inputs import inputs
from deme_core.params import read
from deme_core.tensors import read_recipe, read_tensors, write_tensors

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
EXPERT = "stages.finetune_range --range 1 --pretrained pretrained --examples examples --out out --curve curve.csv"
BASELINE = (
    "stages.finetune_baseline --baseline {} --pretrained pretrained --examples examples --out out --curve curve.csv"
)
SCRATCH = "stages.pretrain_load --data examples --out out"
SHORT = {
    "iterations": 12, "batch_size": 8, "gradient_accumulation": 2, "log_every": 2, "checkpoint_every": 2,
    "adam_epsilon": 1e-2, "learning_rate": 1e-2,
}  # fmt: skip
FROM_SCRATCH = {"consistency": 0.0, "projection": "none"}
SLOW = """
import runpy, sys, time
from deme_core import progress
from deme_core.training import batches
progress.EVERY = 0.0  # a line a step
draw = batches.draw_timesteps
batches.draw_timesteps = lambda *args, **options: (time.sleep(0.1), draw(*args, **options))[1]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def template(pipeline: Path, digits: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a folder holds in which the stages that train can run."""
    folder = tmp_path_factory.mktemp("template")
    params = read(REPOSITORY / "params.yaml") | {"N": 2, "dag": {}}
    params["finetune_range"] |= SHORT
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for part in ("train", "validation", "heldout"):
        write_tensors(folder / f"examples/{part}.safetensors", {"pixels": digits, "labels": torch.zeros(64)})
    shutil.copytree(pipeline, folder / "pretrained")
    (folder / "slow.py").write_text(SLOW)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Such a folder."""
    return Path(shutil.copytree(template, tmp_path / "project"))


def with_params(project: Path, section: str, **changes: Any) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section] |= changes
    params["inputs"] = inputs(params)
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def start(folder: Path, launch: list[str], command: str, *, slow: bool = False) -> subprocess.Popen[str]:
    """Start a stage's command, as `dvc repro --dry` prints it, under a launcher."""
    module = ["slow.py"] if slow else ["-m"]
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "CUDA_VISIBLE_DEVICES": os.environ.get("DEME_TEST_GPUS", ""),
    }
    return subprocess.Popen(
        [*launch, *module, *command.split()], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run(folder: Path, launch: list[str], command: str, *, slow: bool = False) -> str:
    """Run it to a good end; what it printed."""
    process = start(folder, launch, command, slow=slow)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out + errors


def run_alone(folder: Path, command: str) -> None:
    """The same in this process."""
    module, *arguments = command.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage(module.removeprefix("stages."), *arguments, monkeypatch=patch)


def tensors_of(folder: Path) -> Tensors:
    """All weights that a run has written."""
    files = sorted((folder / "out").rglob(WEIGHTS))
    return {f"{file.parent.name}.{key}": value for file in files for key, value in read_tensors(file).items()}


def distance(one: Tensors, two: Tensors) -> float:
    assert one.keys() == two.keys()
    return max(float((one[key] - two[key]).abs().max()) for key in one)


def is_that_of_one(project: Path, command: str) -> None:
    """What lies in the project is what one process makes by the same command, but for the order of a sum.

    Two processes add the halves of a gradient last, one process adds its rows as they come: they differ by some 1e-7
    of the terms. AdamW divides a gradient by its own size, which makes rounding as large as a step where the terms
    cancel; the large ε of these trainings keeps it from that. What is left grows over 12 steps of a network that is
    not linear: a ten-thousandth of the way that the weights went is allowed, at the worst element.
    """
    shared, curve = tensors_of(project), pd.read_csv(project / "curve.csv") if "curve" in command else None
    alone = project.with_name("alone")
    shutil.copytree(project, alone, ignore=shutil.ignore_patterns("out", "curve.csv", ".checkpoints"))
    run_alone(alone, command)
    base = read_tensors(project / "pretrained" / "unet" / WEIGHTS)
    found = tensors_of(alone)
    moved = distance(found, {key: base[key.split(".", 1)[1]] for key in found})
    assert moved > 1e-2
    assert distance(shared, found) < 1e-4 * moved
    if curve is not None:
        expected = pd.read_csv(alone / "curve.csv")
        assert {*expected.pop("processes")} == {1}
        curve.pop("processes")
        pd.testing.assert_frame_equal(curve, expected, rtol=1e-4)  # of the whole batch, not of one process' share


@pytest.mark.parametrize(
    "launch",
    [pytest.param(ACCELERATE, id="accelerate"), pytest.param(TORCHRUN, id="torchrun", marks=pytest.mark.slow)],
)
def test_a_baseline_of_two_processes_is_that_of_one(project: Path, launch: list[str]) -> None:
    command = BASELINE.format("full_range")
    run(project, launch, command)
    assert {*pd.read_csv(project / "curve.csv")["processes"]} == {2}
    assert not list(project.rglob("*.partial"))
    is_that_of_one(project, command)


def test_a_base_is_trained_by_two_processes(project: Path) -> None:
    training = yaml.safe_load((project / "params.yaml").read_text())["finetune_range"]
    architecture = {key: list(value) if isinstance(value, tuple) else value for key, value in ARCHITECTURE.items()}
    how = {"architecture": architecture, "noise_schedule": {}, "training": training | FROM_SCRATCH}
    with_params(project, "pretrain_load", source="train", train=how)
    run(project, ACCELERATE, SCRATCH)
    is_that_of_one(project, SCRATCH)


@pytest.fixture
def interrupted() -> Iterator[Callable[[Path, str, int], subprocess.Popen[str]]]:
    """Starts a slow run of two processes, and returns once it has saved a step; no process outlives the test."""
    started = []

    def interrupted(folder: Path, command: str, step: int) -> subprocess.Popen[str]:
        started.append(launch := start(folder, TORCHRUN, command, slow=True))
        while not [f for f in folder.glob(".checkpoints/*/state.safetensors") if read_recipe(f)["step"] >= step]:
            assert launch.poll() is None, launch.communicate()[1][-3000:]
            time.sleep(0.05)
        return launch

    yield interrupted
    for launch in started:
        kill_all(launch)


def kill_all(launch: subprocess.Popen[str]) -> None:
    """A launcher, and its workers, which have sessions of their own and would go on."""
    for pid in [launch.pid, *workers(launch.pid)] if launch.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launch.communicate()


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started, and those that these have, without children of their own."""
    tasks = list(Path(f"/proc/{launcher}/task").iterdir())
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [leaf for child in children for leaf in workers(child) or [child]]


@reads_proc
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(EXPERT, id="expert"),
        pytest.param(BASELINE.format("soup_full_range"), id="soup", marks=pytest.mark.slow),
    ],
)
def test_one_of_two_processes_is_killed_and_both_resume(
    project: Path, interrupted: Callable[[Path, str, int], subprocess.Popen[str]], command: str
) -> None:
    launch = interrupted(project, command, 4)
    os.kill(workers(launch.pid)[-1], signal.SIGKILL)
    launch.communicate(timeout=120)
    assert launch.returncode != 0
    assert not (project / "curve.csv").exists()
    said = run(project, TORCHRUN, command, slow=True)
    first = re.search(r" (\d+)/12 \[", said)
    assert first and int(first[1]) > 4  # the first step of a training that went on
    assert {*pd.read_csv(project / "curve.csv")["processes"]} == {2}
    assert len(list((project / "out").glob("*.safetensors"))) == (2 if "soup" in command else 1)
    is_that_of_one(project, command)


def test_one_process_continues_what_two_began(
    project: Path, interrupted: Callable[[Path, str, int], subprocess.Popen[str]]
) -> None:
    """The curve says how many worked at which step."""
    kill_all(interrupted(project, EXPERT, 4))
    run_alone(project, EXPERT)
    assert [*pd.read_csv(project / "curve.csv")["processes"].unique()] == [2, 1]
    is_that_of_one(project, EXPERT)


def test_a_batch_that_cannot_be_shared_out_is_refused_in_a_line(project: Path) -> None:
    with_params(project, "finetune_range", batch_size=7, antithetic=False)
    launch = start(project, TORCHRUN, EXPERT)
    _, errors = launch.communicate(timeout=300)
    assert launch.returncode != 0
    assert "error: params: batch_size = 7: must be a multiple of the 2 processes, which share it out evenly" in errors
    assert not (project / "out").exists()


def test_a_launch_of_one_process_says_so(project: Path) -> None:
    """`accelerate launch --cpu` takes --num_processes and starts one (huggingface/accelerate#2741)."""
    launch = [*ACCELERATE[:3], "--cpu", "--num_processes", "2"]
    assert "one process works on this" in run(project, launch, EXPERT)
    assert {*pd.read_csv(project / "curve.csv")["processes"]} == {1}


def test_a_stage_that_shares_nothing_runs_once_under_a_launch(project: Path) -> None:
    said = run(project, TORCHRUN, "stages.data --out parts")
    assert said.count(" train, ") == 1
    assert "one process works on this" not in said
    assert sorted(files_of(project / "parts")) == [
        "heldout.safetensors", "preview.png", "train.safetensors", "validation.safetensors",
    ]  # fmt: skip
