"""Finetune the pretrained model: an expert on its own timestep range (Sec. 3.2), or any other finetune."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from deme_core.checkpoints import (
    denoiser_dir,
    load_denoiser,
    load_noise_schedule,
    save_denoiser,
    schedule_identity,
    weights_file,
)
from deme_core.data.examples import Examples
from deme_core.processes import by_main
from deme_core.projection import fold_projections, insert_projections
from deme_core.tensors import weights_hash
from deme_core.timesteps import TimestepRanges
from deme_core.training.learning_rate import with_rate
from deme_core.training.settings import AUTO, TrainingParams
from deme_core.work import ROOT, work_dir

Curve = list[dict[str, float]]


def finetune_range(
    pretrained: Path,
    examples: Examples,
    ranges: TimestepRanges,
    i: int,
    p: float,
    params: TrainingParams,
    out: Path,
    *,
    seed: int,
    validation: Examples | None = None,
    checkpoints: Path = ROOT,
) -> Curve:
    """Finetune the expert of range i (counted from 1): `finetune` on that range, with Eq. 6's p."""
    own = ranges.range(i)
    return finetune(
        pretrained, examples, params, out, own=own, p=p, seed=seed,
        label=f"range {i} of {ranges.N}, t in [{own[0]}, {own[1]})",
        recipe={"bounds": list(ranges.bounds), "range": i, "p": p, "seed": seed}, validation=validation,
        checkpoints=checkpoints,
    )  # fmt: skip


def finetune(
    pretrained: Path,
    examples: Examples,
    params: TrainingParams,
    out: Path,
    *,
    own: tuple[int, int],
    p: float,
    seed: int,
    label: str,
    recipe: dict[str, Any],
    loss_weights: torch.Tensor | None = None,
    validation: Examples | None = None,
    checkpoints: Path = ROOT,
) -> Curve:
    """Finetune the pretrained model on examples of its own space; write the denoiser to `out`.

    The EMA weights are what is written, with foldable projections folded in: a plain diffusers denoiser. The
    recipe in its metadata names the hash of θ and every param.

    Args:
        own: [low, high) of the timesteps that are drawn, but for those of the full range with probability p.
        loss_weights: weight of the loss at each timestep, [T]; all 0 asks for nothing, and gives θ itself.
        recipe: what else names this training, its `bounds` and `range` for sampling among it.
        validation: images that no training sees, of a learning rate that probes find.

    Returns:
        The curve of the loss.
    """
    if params.learning_rate == AUTO:
        probe = partial(
            finetune, pretrained, examples, own=own, p=p, seed=seed, label=f"{label}, probe", recipe=recipe,
            loss_weights=loss_weights, checkpoints=checkpoints,
        )  # fmt: skip
        identity = recipe | {"label": label, "finetune_range": asdict(params), "data": examples.sha256}
        work = work_dir("probes", identity, __file__, checkpoints)
        params = with_rate(params, probe, pretrained, validation, own, work)
    source = denoiser_dir(pretrained)
    recipe = {"base_sha256": weights_hash(weights_file(source)), "finetune_range": asdict(params)} | recipe
    student = load_denoiser(source)
    if loss_weights is not None and not bool(loss_weights.any()):
        by_main(lambda: save_denoiser(out, source, student.state_dict(), recipe))
        return []
    teacher = copy.deepcopy(student) if params.consistency > 0 else None
    insert_projections(student, params.projection)

    from deme_core.training.loop import train  # accelerate only once the input is known to be good

    schedule = load_noise_schedule(pretrained)
    identity = recipe | {
        "data": examples.sha256, "noise_schedule": schedule_identity(schedule), "own": own, "label": label,
        "loss_weights": None if loss_weights is None else loss_weights.tolist(),
    }  # fmt: skip
    curve = train(
        student, schedule, examples, params, own=own, p=p, seed=seed, label=label,
        state=work_dir("finetune", identity, __file__, checkpoints), teacher=teacher, loss_weights=loss_weights,
    )  # fmt: skip
    student.cpu()
    if params.projection == "foldable":
        fold_projections(student)
    by_main(lambda: save_denoiser(out, source, student.state_dict(), recipe))
    return curve


def ended(curves: Sequence[Curve]) -> str:
    """Where the curves of trainings end, in words."""
    last = [curve[-1] for curve in curves if curve]
    if not last:
        return "no loss was logged"
    losses = [row["denoising"] for row in last]
    return f"denoising loss {', '.join(f'{loss:.4f}' for loss in losses)} at step {last[-1]['step']:,}"


def write_curves(curves: Sequence[Curve], file: Path) -> None:
    """The curves of several trainings as one CSV; `member` counts them from 1."""
    file.parent.mkdir(parents=True, exist_ok=True)
    members = dict(enumerate(map(pd.DataFrame, curves), 1))
    pd.concat(members, names=["member", None]).droplevel(1).to_csv(file)
