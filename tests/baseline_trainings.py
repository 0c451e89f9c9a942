"""Short trainings of baselines, and what each was asked for, for the tests of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import N, training_params

from deme_core.checkpoints import load_noise_schedule
from deme_core.dag import BASELINES
from deme_core.data.examples import Pixels
from deme_core.timesteps import TimestepRanges
from deme_core.training import loop
from deme_core.training.baselines import BaselineParams, baseline_jobs
from deme_core.training.finetune import expert_job, finetune_each
from deme_core.training.job import Curve, Job

RANGES = TimestepRanges.equal(N, 1000)
FINETUNED = [baseline for baseline in BASELINES if baseline != "soup_greedy"]
W = [0.5, 0.25]


def baseline(
    name: str, pipeline: Path, digits: torch.Tensor, out: Path, *, work: str = "work", seed: int = 0, p: float = 0.4,
    gamma: float = 5.0, merge_weights: list[float] | None = None, **changes: Any,
) -> list[Curve]:  # fmt: skip
    """4 steps of an expert, unless changed."""
    expert = expert_job(RANGES, 1, p, training_params(**{"iterations": 4} | changes), seed)
    weights = merge_weights or (W if name == "loss_equivalent" else None)
    jobs = baseline_jobs(name, expert, load_noise_schedule(pipeline), BaselineParams(gamma=gamma), weights)
    return finetune_each(jobs, pipeline, Pixels(digits), out, checkpoints=out.parent / work)


class Trainings:
    """Stands before `train` and keeps what each training was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.teachers: list[torch.nn.Module | None] = []
        self.weights: list[int] = []
        train = loop.train

        def seen(
            student: torch.nn.Module, schedule: Any, data: Any, job: Job, state_folder: Path, teacher: Any
        ) -> Curve:
            self.jobs.append(job)
            self.teachers.append(teacher)
            self.weights.append(sum(parameter.numel() for parameter in student.parameters()))
            return train(student, schedule, data, job, state_folder, teacher=teacher)

        monkeypatch.setattr(loop, "train", seen)
