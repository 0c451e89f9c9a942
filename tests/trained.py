"""A training of seconds on the tiny pipeline, for the tests of it: of an expert, or of the loop alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import ARCHITECTURE, N, job_of, training_params
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.tensors import read_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.job import Curve
from deme_core.training.loop import train

RANGES = TimestepRanges.equal(N, 1000)


def train_expert(
    pipeline: Path, digits: torch.Tensor, out: Path, *, work: str = "work", i: int = 1, **changes: Any
) -> Curve:
    job = expert_job(RANGES, i, 0.4, training_params(**changes), 0)
    return finetune(job, pipeline, Pixels(digits), out, checkpoints=out.parent / work)


def run(
    pipeline: Path, digits: torch.Tensor, state_folder: Path, *, schedule: DDPMScheduler | None = None,
    snapshot: Callable[[int, torch.nn.Module], None] | None = None, **changes: Any,
) -> tuple[Curve, dict[str, torch.Tensor]]:  # fmt: skip
    """`train` on range 1, with a snapshot every step: the curve and the final weights."""
    student = load_denoiser(pipeline / "unet")
    params = training_params(**{"projection": "none"} | changes)
    curve = train(
        student, schedule or load_noise_schedule(pipeline), Pixels(digits), job_of(params), state_folder,
        teacher=copy.deepcopy(student) if params.consistency else None, snapshot=snapshot, snapshot_every=1,
    )  # fmt: skip
    return curve, student.state_dict()


def write_wide(directory: Path, dropout: float = 0.0) -> Path:
    """A pipeline whose convolutions have more than 4,096 elements: the moments of smaller tensors keep 32 bits."""
    model = UNet2DModel(**ARCHITECTURE | {"block_out_channels": (32, 32), "dropout": dropout})
    DDPMPipeline(model, DDPMScheduler()).save_pretrained(directory)
    return directory


class Interrupted(Exception):
    pass


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def state_tensors(state_folder: Path, part: str) -> dict[str, torch.Tensor]:
    """`model`, `ema` or `optimizer` of a resume state."""
    tensors = read_tensors(state_folder / "state.safetensors")
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
