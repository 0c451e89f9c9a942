"""Bootstrap intervals over prompts, which are the independent units of a text-to-image evaluation.

For means of a score an image. A Fréchet distance is no mean: its bootstrap is biased twice, and the change between two
models is told by `deme_core.metrics.intervals.paired_interval` over seed blocks.
"""

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.intervals import Interval, t_interval
from deme_core.metrics.moments import Array
from deme_core.seeds import step_seed

RESAMPLES = 2000
FEW = 8  # values, below which resamples that all lie on one side, or on one value, are too frequent
CHUNK = 100  # resamples at a time: 30,000 prompts then take 24 MB


def prompt_means(scores: ArrayLike, prompts: ArrayLike) -> Array:
    """Mean score of each prompt [P], from the scores [n] of images and the prompt [n] of each, 0 … P − 1.

    Images of one prompt are no independent draws of prompts: a prompt counts once, however many images it has.
    """
    values, index = np.asarray(scores, dtype=np.float64), np.asarray(prompts)
    if values.ndim != 1 or values.shape != index.shape or not values.size:
        raise ValueError(f"scores {values.shape} of prompts {index.shape}: both must be [n], n >= 1")
    counts = np.bincount(index)
    if not counts.all():
        raise ValueError(f"prompt {int(np.argmin(counts))} has no image; sample every prompt of the set")
    return np.bincount(index, weights=values) / counts


def bootstrap_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean of values [P], P >= 2: the studentised bootstrap, always with the same resamples.

    mean − q·s, where s is the standard error and q are quantiles of (mean* − mean) / s* over the resamples (Efron and
    Tibshirani 1993, "An Introduction to the Bootstrap", chapter 12): mirrored as in the basic bootstrap, and right for
    skewed scores and for few prompts, too. Fewer than 8 values get a Student t interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
        raise ValueError(f"values of shape {sample.shape}; they must be [P], P >= 2, and finite: take more prompts")
    mean, error = float(sample.mean()), float(_standard_error(sample))
    if sample.size < FEW:
        return t_interval(sample, confidence)
    if error == 0:
        return Interval(mean, mean, mean)
    generator = np.random.default_rng(step_seed("bootstrap", sample.size))
    ratios = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = sample[generator.integers(sample.size, size=(CHUNK, sample.size))]
        errors = _standard_error(drawn)
        ratios.append((drawn.mean(1) - mean)[errors > 0] / errors[errors > 0])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(mean, mean - float(high) * error, mean - float(low) * error)


def paired_bootstrap(candidate: ArrayLike, baseline: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean of candidate − baseline, both [P]: of the same prompts, sampled from the same noise."""
    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{ours.shape} candidate prompts against {theirs.shape} baseline prompts; they are paired, take one set"
        )
    return bootstrap_interval(ours - theirs, confidence)


def _standard_error(values: Array) -> Array:
    return values.std(-1, ddof=1) / values.shape[-1] ** 0.5
