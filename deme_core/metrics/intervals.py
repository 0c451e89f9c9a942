"""Confidence intervals for metrics: over independent blocks, over paired blocks, and by the jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.moments import Array, Moments

JACKKNIFE_GROUPS = 20
COVERED = 4  # rows for each feature, from which on the jackknife of a Fréchet distance covers it


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of the metric; low <= value <= high."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """The interval as flat metrics: NAME, NAME_low, NAME_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student t interval, K - 1 degrees of freedom, of the mean of K >= 2 independent block values [K].

    It covers the expected value of one block: for a biased metric, the metric at the size of a block.
    """
    blocks = _finite_vector(values, "values")
    standard_error = float(blocks.std(ddof=1)) / blocks.size**0.5
    return _student(float(blocks.mean()), standard_error, blocks.size - 1, confidence)


def paired_interval(candidate_blocks: ArrayLike, baseline_blocks: ArrayLike, confidence: float = 0.95) -> Interval:
    """t interval of candidate - baseline, both [K], where block k of both was made from the same noise.

    The luck of the noise, shared within a block, cancels in the difference, and of the bias of a Fréchet
    distance what both models share. The rest, which falls with n / D of a block, stays: this covers the
    difference that blocks of this size show.
    """
    candidate = _finite_vector(candidate_blocks, "candidate_blocks")
    baseline = _finite_vector(baseline_blocks, "baseline_blocks")
    if candidate.size != baseline.size:
        raise ValueError(
            f"{candidate.size} candidate blocks against {baseline.size} baseline blocks; they are paired by "
            "noise and must be as many: measure both on the same seeds"
        )
    return t_interval(candidate - baseline, confidence)


def crossed_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean of [S, K] differences between two models, over S trainings and K blocks of noise each.

    It covers the luck of training and that of noise. Every training is measured on the same K blocks, so that neither
    S·K values nor S means are independent; with d = μ + training_s + block_k + rest, the variances
    of the row means over S and of the column means over K bound that of the grand mean. Degrees of freedom by Welch
    and Satterthwaite, but for two trainings: their one degree is taken too rarely there, and 95 % would cover 90 %
    where trainings differ most. Half-widths of either luck are added in squares then, which covers 95 % and more.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"differences have shape {values.shape}; they must be [S, K], S and K >= 2: train more seeds")
    if not np.isfinite(values).all():
        raise ValueError("differences hold a value that is not finite")
    parts = [float(values.mean(axis).var(ddof=1)) / values.shape[1 - axis] for axis in (1, 0)]
    mean, freedom = float(values.mean()), [count - 1 for count in values.shape]
    if len(values) == 2:
        each = [_half_width(part**0.5, free, confidence) for part, free in zip(parts, freedom, strict=True)]
        return _around(mean, math.hypot(*each))
    squares = [part**2 / free for part, free in zip(parts, freedom, strict=True)]
    degrees = sum(parts) ** 2 / sum(squares) if sum(squares) else 1.0
    return _student(mean, sum(parts) ** 0.5, degrees, confidence)


def block_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """`t_interval` of one training's blocks [K]; `crossed_interval` of several trainings on the same blocks, [S, K]."""
    return (t_interval if np.ndim(values) == 1 else crossed_interval)(values, confidence)


def jackknife_interval(
    statistic: Callable[[Moments], float], groups: Sequence[Moments], confidence: float = 0.95
) -> Interval:
    """Delete-one-group jackknife of theta = statistic(moments) over K >= 2 independent groups of equal n.

    value: K theta(all) - (K - 1) mean_k theta(-k), which removes a bias that falls as 1 / n;
    standard error: sqrt((K - 1) / K * sum_k (theta(-k) - mean_k theta(-k))^2); Student t with K - 1 degrees
    of freedom (Tukey 1958; Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11).

    For a Fréchet distance all groups together must hold at least about 4 D rows (see `uncovered`). Near D rows its bias
    is no longer 1 / n, and the interval lies too low: on Gaussians with D = 64 a 95 % interval covered 95 % at 4 D
    rows, 60 % at 2 D and 0 % at D.
    """
    # A percentile bootstrap is not offered. A Fréchet distance of n rows reads too high by about c / n, and
    # resampling those rows adds the same bias once more: the percentiles lie around theta + 2 c / n, and can
    # miss not only the truth but the estimate itself.
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} groups; a jackknife needs at least 2: split the rows into about 20")
    sizes = [group.n for group in groups]
    if min(sizes) != max(sizes):
        raise ValueError(f"groups of {min(sizes)} to {max(sizes)} rows; all must have equal n: drop the rows left over")
    k = len(groups)
    whole = reduce(add, groups)
    without = _finite_vector([statistic(whole - group) for group in groups], "the statistic without a group")
    value = k * statistic(whole) - (k - 1) * float(without.mean())
    standard_error = ((k - 1) / k * float(np.square(without - without.mean()).sum())) ** 0.5
    return _student(value, standard_error, k - 1, confidence)


def uncovered(images: int, features: int, blocks: int) -> str | None:
    """Why the Fréchet distance of so many images gets no jackknife, in a sentence for people; None where it gets one.

    Args:
        features: D.
        blocks: seed blocks, into which images are split, as they are into the groups of the jackknife.
    """
    if images >= COVERED * features:
        return None
    unit = math.lcm(blocks, JACKKNIFE_GROUPS)
    return (
        f"Fréchet distances get no corrected value and no interval of it, which would not cover: {images:,} images are"
        f" fewer than {COVERED} for each of {features:,} features; set sample.images to"
        f" {-(-COVERED * features // unit) * unit:,} or more."
    )


def _student(value: float, standard_error: float, degrees: float, confidence: float) -> Interval:
    """value ± t * standard_error."""
    return _around(value, _half_width(standard_error, degrees, confidence))


def _half_width(standard_error: float, degrees: float, confidence: float) -> float:
    """t * standard_error, two-sided, at a confidence in (0, 1)."""
    from scipy.stats import t  # here, because its import takes a good part of a second

    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}; it must lie between 0 and 1: give 0.95 for 95 %")
    return float(t.ppf((1 + confidence) / 2, degrees)) * standard_error


def _around(value: float, half_width: float) -> Interval:
    return Interval(value, value - half_width, value + half_width)


def _finite_vector(values: ArrayLike, name: str) -> Array:
    """`values` as a finite float64 vector [K], K >= 2."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size < 2:
        raise ValueError(f"{name} has shape {vector.shape}; it must be [K], K >= 2: measure more blocks")
    finite = np.isfinite(vector)
    if not finite.all():
        raise ValueError(f"{name} holds {vector[~finite][0]}; all must be finite: look at entry {np.argmin(finite)}")
    return vector
