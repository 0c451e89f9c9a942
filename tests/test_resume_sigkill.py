"""A trainer that is killed outright, between steps or during a checkpoint's write, or told to end: the same bytes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import files_of, training_params

from deme_core.data.examples import Pixels
from deme_core.errors import InputError
from deme_core.tensors import read_recipe, write_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.settings import TrainingParams

PARAMS = training_params(iterations=40, log_every=1, checkpoint_every=2)
RARE = training_params(iterations=40, log_every=10, checkpoint_every=40)
TRAINER = """
import json, os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from deme_core import stage, tensors
from deme_core.data.examples import Pixels
from deme_core.timesteps import TimestepRanges
from deme_core.training import batches
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.settings import TrainingParams

pipeline, data, folder = map(Path, sys.argv[1:4])
draw, fsync = batches.draw_timesteps, os.fsync

def slow_draw(*args, **options):
    time.sleep(0.05)
    with (folder / "draws").open("a") as file:
        file.write(".")
    return draw(*args, **options)

def slow_fsync(descriptor):
    # The last moment before a file is renamed to its own name.
    if os.environ.get("STOP_IN_WRITE") and (folder / "work").exists() and list(folder.glob("work/*/state.safetensors")):
        (folder / "writing").touch()
        time.sleep(600)
    fsync(descriptor)

batches.draw_timesteps, os.fsync = slow_draw, slow_fsync

def main():
    job = expert_job(TimestepRanges.equal(2, 1000), 1, 0.4, TrainingParams(**json.loads(sys.argv[4])), 0)
    examples = Pixels(tensors.read_tensors(data)["pixels"])
    finetune(job, pipeline, examples, folder / "out", checkpoints=folder / "work")

stage.run(main)
"""


@pytest.fixture
def start(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a trainer on tmp_path; none outlives its test."""
    write_tensors(tmp_path / "data.safetensors", {"pixels": digits})
    trainers = []

    def start(params: TrainingParams = PARAMS, **environment: str) -> subprocess.Popen[str]:
        arguments = [str(pipeline), str(tmp_path / "data.safetensors"), str(tmp_path), json.dumps(asdict(params))]
        trainer = subprocess.Popen(
            [sys.executable, "-c", TRAINER, *arguments],
            env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        trainers.append(trainer)
        return trainer

    yield start
    for trainer in trainers:
        trainer.kill()
        trainer.wait()
        trainer.stderr.close()


def saved_step(folder: Path) -> int:
    """The step of the resume state on disk, 0 where there is none. Any state that is there must be whole."""
    states = list(folder.glob("work/*/state.safetensors"))
    try:
        return read_recipe(states[0])["step"] if states else 0
    except InputError as error:  # pragma: no cover
        pytest.fail(f"a state that is not whole: {error}")


def wait_for(trainer: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert trainer.poll() is None, trainer.stderr.read()
        time.sleep(0.01)


def kill(trainer: subprocess.Popen[str]) -> None:
    trainer.kill()
    assert trainer.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(
    pipeline: Path, digits: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], list[dict[str, float]]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = expert_job(TimestepRanges.equal(2, 1000), 1, 0.4, PARAMS, 0)
    curve = finetune(job, pipeline, Pixels(digits), folder / "out", checkpoints=folder / "work")
    return files_of(folder / "out"), curve


def finished(folder: Path) -> tuple[dict[str, str], list[dict[str, float]]]:
    (state_file,) = folder.glob("work/*/state.safetensors")
    return files_of(folder / "out"), read_recipe(state_file)["curve"]


def test_killed_three_times_between_steps(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: tuple, tmp_path: Path
) -> None:
    seen = []
    for wanted in (3, 11, 23):  # each kill comes some steps after its predecessor, wherever the step then is
        trainer = start()
        wait_for(trainer, lambda wanted=wanted: saved_step(tmp_path) >= wanted)
        kill(trainer)
        seen.append(saved_step(tmp_path))
        assert not (tmp_path / "out").exists()
    assert seen == sorted(set(seen))
    assert seen[0] >= 3
    assert seen[-1] < 40
    assert start().wait() == 0
    assert finished(tmp_path) == uninterrupted


def test_killed_during_the_write_of_a_checkpoint(
    start: Callable[..., subprocess.Popen[str]], uninterrupted: tuple, tmp_path: Path
) -> None:
    trainer = start(STOP_IN_WRITE="1")
    wait_for(trainer, (tmp_path / "writing").exists)
    (partial,) = tmp_path.glob("work/*/.state.safetensors.partial")
    kill(trainer)
    assert partial.exists()
    assert saved_step(tmp_path) == 2  # the second write, of step 4, did not take its place
    assert start().wait() == 0
    assert finished(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.slow)])
def test_told_to_end_it_saves_the_very_step(
    start: Callable[..., subprocess.Popen[str]], pipeline: Path, digits: torch.Tensor, tmp_path: Path, number: int
) -> None:
    seen, draws = [0], tmp_path / "draws"
    for _ in range(2):
        draws.write_text("")
        trainer = start(RARE)
        wait_for(trainer, lambda: len(draws.read_text()) >= 6)
        trainer.send_signal(number)
        _, errors = trainer.communicate(timeout=60)
        assert trainer.returncode == -number, errors  # as without a handler, for whoever started it
        seen.append(saved_step(tmp_path))
        assert f"range 1 of 2, t in [0, 500): told to end, saved at step {seen[-1]}\n" in errors
        assert not (tmp_path / "out").exists()
    assert all(0 < later - earlier < 20 for earlier, later in itertools.pairwise(seen)), seen  # no checkpoint is due
    assert any(step % RARE.log_every for step in seen)  # within a row of the curve
    assert start(RARE).wait() == 0
    job = expert_job(TimestepRanges.equal(2, 1000), 1, 0.4, RARE, 0)
    curve = finetune(job, pipeline, Pixels(digits), tmp_path / "plain", checkpoints=tmp_path / "plain_work")
    assert finished(tmp_path) == (files_of(tmp_path / "plain"), curve)


def test_a_second_trainer_is_told_who_is_at_work(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    first = start(STOP_IN_WRITE="1")
    wait_for(first, (tmp_path / "writing").exists)
    second = start()
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    (line,) = [line for line in errors.splitlines() if "Warning" not in line]
    assert line.startswith("error: ")
    assert f"process {first.pid} is working on this already; wait for it, or stop it" in line
    assert first.poll() is None
    kill(first)
