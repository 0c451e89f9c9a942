"""`finetune_range.learning_rate: auto`: short probes on the part `validation` find the rate of a finetune."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from deme_core.checkpoints import denoiser_dir, load_noise_schedule
from deme_core.data.examples import Examples
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.metrics.intervals import t_interval
from deme_core.processes import agreed, is_main
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Job
from deme_core.training.range_losses import model_losses
from deme_core.training.settings import AUTO, TrainingParams

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
SHARE = 0.1  # of a finetune's steps, each probe
LOSSES = 6000  # image losses a probe is judged by, draws of timestep and noise included
NO_IMAGE = (
    f"params: finetune_range.learning_rate = {AUTO}: fewer than two images are left to choose it by; raise"
    " data.held_out and data.validation, or give a number"
)


def most_steps(params: TrainingParams) -> int:
    """Optimizer steps of a finetune and of its probes, at most."""
    return params.iterations + (len(RATES) * _steps(params) if params.learning_rate == AUTO else 0)


def check_rate(params: TrainingParams, held_out: float | None, validation: float) -> None:
    """Refuse a rate that no image is left to choose by."""
    if params.learning_rate == AUTO and (held_out == 0 or validation == 0):
        raise InputError(NO_IMAGE)


def with_rate(
    job: Job, finetune: Callable[[Job, Path], object], pretrained: Path, validation: Examples | None, work: Path
) -> Job:
    """The job with a rate in the place of `auto`: the last rate, from the lowest upwards, that gained by the step.

    A rate gains over the one before where its loss on the job's range lies below that one's by the paired 95 % interval
    over images. The first rate that does not ends the search: one that undoes the base's annealing never wins.

    Args:
        finetune: (job, folder) trains and writes a denoiser.
        validation: images that no training sees.
        work: a folder for the probes, which a run that goes on finds again.

    Raises:
        InputError: there are no such images.
    """
    if validation is None or len(validation) < 2:
        raise InputError(NO_IMAGE)
    schedule = load_noise_schedule(pretrained)
    bounds = sorted({0, *job.trained_range, job.ranges.T})
    ranges, which = TimestepRanges(tuple(bounds)), [bounds.index(job.trained_range[0]) + 1]
    draws = -(-LOSSES // len(validation))

    def losses(folder: Path) -> np.ndarray:
        """Of each image on the job's range, the same in all processes."""
        (found,) = model_losses({"": folder}, schedule, validation, ranges, draws, best_device(), which)[""]
        return np.array(agreed(found.tolist()))

    steps = _steps(job.settings)
    base = best = losses(denoiser_dir(pretrained))
    chosen = RATES[0]
    for rate in RATES:
        short = job.settings.of_length(steps, learning_rate=rate, log_every=steps, checkpoint_every=steps)
        finetune(replace(job, label=f"{job.label}, probe", settings=short), work / f"{rate:g}")
        found = losses(work / f"{rate:g}")
        change, gain = (t_interval(100 * (found - other) / base.mean()) for other in (base, best))
        if is_main():
            print(
                f"learning rate {rate:g}, {steps} steps: {change.value:+.3f} % [{change.low:+.3f}, {change.high:+.3f}]"
                " of the base's loss",
                file=sys.stderr,
            )
        if gain.high >= 0:
            break
        best, chosen = found, rate
    if is_main():
        print(f"learning rate {chosen:g}", file=sys.stderr)
    return replace(job, settings=replace(job.settings, learning_rate=chosen))


def _steps(params: TrainingParams) -> int:
    return max(1, round(SHARE * params.iterations))
