"""Finetune one expert: the pretrained model on its own timestep range (Sec. 3.2)."""

import copy
from dataclasses import asdict
from pathlib import Path

import torch

from deme_core.checkpoints import (
    denoiser_dir,
    load_denoiser,
    load_noise_schedule,
    save_denoiser,
    weights_file,
)
from deme_core.data.images import pixels_hash
from deme_core.projection import fold_projections, insert_projections
from deme_core.tensors import weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training.settings import TrainingParams
from deme_core.work import ROOT, work_dir


def finetune_range(
    pretrained: Path,
    pixels: torch.Tensor,
    ranges: TimestepRanges,
    i: int,
    p: float,
    params: TrainingParams,
    out: Path,
    *,
    seed: int,
    checkpoints: Path = ROOT,
) -> list[dict[str, float]]:
    """Finetune range i (counted from 1) on uint8 [n, C, H, W]; write the expert's denoiser to `out`.

    The EMA weights are what is written, with foldable projections folded in: a plain diffusers denoiser. The
    recipe in its metadata names the hash of θ, the range and every param.

    Returns:
        The curve of the loss.
    """
    source = denoiser_dir(pretrained)
    own = ranges.range(i)
    recipe = {
        "base_sha256": weights_hash(weights_file(source)),
        "bounds": list(ranges.bounds), "range": i, "p": p, "seed": seed, "finetune_range": asdict(params),
    }  # fmt: skip
    student = load_denoiser(source)
    teacher = copy.deepcopy(student) if params.consistency > 0 else None
    insert_projections(student, params.projection)

    from deme_core.training.loop import train  # accelerate only once the input is known to be good

    schedule = load_noise_schedule(pretrained)
    identity = recipe | {"data": pixels_hash(pixels), "noise_schedule": dict(schedule.config)}
    curve = train(
        student, schedule, pixels, params, own=own, p=p, seed=seed,
        label=f"range {i} of {ranges.N}, t in [{own[0]}, {own[1]})",
        state=work_dir(f"finetune_range-{i}", identity, checkpoints), teacher=teacher,
    )  # fmt: skip
    student.cpu()
    if params.projection == "foldable":
        fold_projections(student)
    save_denoiser(out, source, student.state_dict(), recipe)
    return curve
