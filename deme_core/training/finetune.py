"""Finetune the pretrained model: an expert on its own timestep range (Sec. 3.2), or any other finetune."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from deme_core.checkpoints import (
    denoiser_config,
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
from deme_core.timesteps import TimestepRanges, span_name
from deme_core.training.job import Curve, Job
from deme_core.training.learning_rate import with_rate
from deme_core.training.settings import AUTO, TrainingParams
from deme_core.work import ROOT, work_dir


def expert_job(ranges: TimestepRanges, i: int, p: float, settings: TrainingParams, seed: int) -> Job:
    """The expert of range i, counted from 1, with Eq. 6's p."""
    label = f"range {i} of {ranges.N}, t in {span_name(ranges.range(i))}"
    return Job(label=label, ranges=ranges, i=i, p=p, seed=seed, settings=settings)


def finetune(
    job: Job,
    pretrained: Path,
    examples: Examples,
    out: Path,
    validation: Examples | None = None,
    checkpoints: Path = ROOT,
) -> Curve:
    """Finetune the pretrained model on examples of its own space; write the denoiser to `out`.

    The EMA weights are what is written, with foldable projections folded in: a plain diffusers denoiser. The
    recipe in its metadata names the hash of θ and every param. Weights of the loss that are all 0 give θ itself.

    Args:
        validation: images that no training sees, of a learning rate that probes find.
        checkpoints: where unfinished work lies.

    Returns:
        The curve of the loss.
    """
    if job.settings.learning_rate == AUTO:
        work = work_dir("probes", job.identity(examples), __file__, checkpoints)
        job = with_rate(
            job, lambda probe, folder: finetune(probe, pretrained, examples, folder, checkpoints=checkpoints),
            pretrained, validation, work,
        )  # fmt: skip
    source = denoiser_dir(pretrained)
    base = {"base_sha256": weights_hash(weights_file(source))}
    student = load_denoiser(source)

    def save() -> None:
        save_denoiser(out, source, student.state_dict(), base | job.recipe)

    if job.loss_weights is not None and not bool(job.loss_weights.any()):
        by_main(save)
        return []
    teacher = copy.deepcopy(student) if job.settings.consistency > 0 else None
    insert_projections(student, job.settings.projection)

    from deme_core.training.loop import train  # accelerate only once the input is known to be good

    schedule = load_noise_schedule(pretrained)
    network = {"denoiser": denoiser_config(source), "noise_schedule": schedule_identity(schedule)}
    identity = base | job.identity(examples) | network
    curve = train(
        student, schedule, examples, job, work_dir("finetune", identity, __file__, checkpoints), teacher=teacher
    )
    student.cpu()
    if job.settings.projection == "foldable":
        fold_projections(student)
    by_main(save)
    return curve


def ended(curves: Sequence[Curve]) -> str:
    """Where the curves of trainings end, in words."""
    last = [curve[-1] for curve in curves if curve]
    if not last:
        return "no loss was logged"
    losses = [row["denoising"] for row in last]
    return f"denoising loss {', '.join(f'{loss:.4f}' for loss in losses)} at step {last[-1]['step']:,}"


def finetune_each(
    jobs: Iterable[Job],
    pretrained: Path,
    examples: Examples,
    out: Path,
    validation: Examples | None = None,
    checkpoints: Path = ROOT,
) -> list[Curve]:
    """`finetune` of one job after the other; the denoisers go to out/1, out/2, …"""
    return [finetune(job, pretrained, examples, out / str(k), validation, checkpoints) for k, job in enumerate(jobs, 1)]


def write_curves(curves: Sequence[Curve], file: Path) -> None:
    """The curves of several trainings as one CSV; `member` counts them from 1."""
    file.parent.mkdir(parents=True, exist_ok=True)
    members = dict(enumerate(map(pd.DataFrame, curves), 1))
    pd.concat(members, names=["member", None]).droplevel(1).to_csv(file)
