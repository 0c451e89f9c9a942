"""Made-up features, for the tests of metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.intervals import Interval, jackknife_interval
from deme_core.metrics.moments import Array, Moments


def gaussian(mean: Array, covariance: Array) -> Moments:
    """Population moments; the count behind them plays no part in a distance."""
    return Moments.from_statistics(mean, covariance, n=2)


def coverage(draw: Callable[[], Interval], truth: float, repeats: int) -> float:
    intervals = [draw() for _ in range(repeats)]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


class GaussianModel:
    """A Gaussian generator whose Fréchet distance to a Gaussian reference is known in closed form.

    Both covariances have the same eigenvectors, so the distance is that of the deviations along them.
    """

    def __init__(self, dimension: int = 8) -> None:
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))[0]
        reference_variances = np.linspace(0.5, 2.0, dimension)
        deviations = np.sqrt(reference_variances * np.linspace(0.7, 1.5, dimension))
        covariance = rotation @ np.diag(reference_variances) @ rotation.T
        self.reference = FrechetReference(gaussian(np.zeros(dimension), covariance))
        self.mean = np.full(dimension, 0.2)
        self.root = deviations[:, None] * rotation.T
        self.truth = np.sum(self.mean**2) + np.sum((np.sqrt(reference_variances) - deviations) ** 2)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return rng.normal(size=(n, len(self.mean))) @ self.root + self.mean

    def jackknife(self, rng: np.random.Generator, n: int) -> Interval:
        groups = [Moments.of(group) for group in np.split(self.sample(rng, n), 20)]
        return jackknife_interval(self.reference.distance, groups)

    def percentile_bootstrap(self, rng: np.random.Generator, n: int, resamples: int = 100) -> Interval:
        rows = self.sample(rng, n)
        drawn = [Moments.of(rows[rng.integers(n, size=n)]) for _ in range(resamples)]
        low, high = np.quantile([self.reference.distance(moments) for moments in drawn], [0.025, 0.975])
        return Interval(self.reference.distance(Moments.of(rows)), float(low), float(high))
