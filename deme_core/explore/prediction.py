"""What a search's trials say of weights that were never sampled: its quadratic, and how far a trial may lie from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from deme_core.metrics.intervals import Interval
from deme_core.search import surrogate as quadratic
from deme_core.search.fitted import surrogate_trials
from deme_core.search.spaces import Each, Space, Steps
from deme_core.search.trials import Weights

LEVEL = 0.95


class NoPrediction(Exception):
    """Nothing is known of these weights; the message says why, after `no prediction: `."""


@dataclass(frozen=True)
class Surrogate:
    """The quadratic of `deme_core.search.fitted` through all trials of one search, with what is left of them."""

    space: Space
    zero: float
    """Score of w = 0."""
    logarithm: bool
    """Whether the quadratic is one of the logarithm of the ratio to it, else of the change."""
    coefficients: np.ndarray
    scale: np.ndarray
    """Root mean square of each term over the trials."""
    gram: np.ndarray
    """XᵀX of the scaled terms."""
    trials: int
    """Without that of w = 0."""
    sigma: float
    """Standard deviation of the trials around the quadratic, with a degree of freedom less for each coefficient."""

    @classmethod
    def of(cls, scores: dict[Weights, float], space: Space, *, logarithm: bool) -> "Surrogate":
        """Fit the trials that lie in the space.

        Args:
            scores: weights of all the search's task vectors -> score on the same images.
            logarithm: fit the logarithm of the ratio to w = 0, as the search along steps does, where scores admit it.

        Raises:
            NoPrediction: too few trials for a quadratic, or none of w = 0.
        """
        N = len(space.bounds)
        base = next((score for w, score in scores.items() if not any(w)), None)
        if base is None:
            raise NoPrediction("the search has scored no image of w = 0")
        found = {numbers: s for w, s in scores.items() if any(w) and (numbers := numbers_of(space, w)) is not None}
        needed = max(surrogate_trials(N) - 1, quadratic.count(N) + 1)
        points, values = np.array(list(found)).reshape(-1, N), np.array(list(found.values()))
        x = quadratic.terms(points)
        if len(points) < needed or np.linalg.matrix_rank(x) < quadratic.count(N):
            raise NoPrediction(
                f"a quadratic in {N} weights needs {needed} trials that vary them all, and the search has {len(points)}"
            )
        logarithm = logarithm and min(base, *values) > 0
        y = np.log(values / base) if logarithm else values - base
        coefficients, scale = quadratic.fit(points, y), np.sqrt((x**2).mean(0)) + 1e-12
        left = y - quadratic.predict(coefficients, points)
        sigma = float(np.sqrt((left**2).sum() / (len(points) - quadratic.count(N))))
        return cls(space, base, logarithm, coefficients, scale, (x / scale).T @ (x / scale), len(points), sigma)

    def at(self, weights: Sequence[float]) -> Interval:
        """The fitted change of the score, and the 95 % interval of a trial there, in the units of the score.

        Raises:
            NoPrediction: the search has not moved weights like these.
        """
        numbers = numbers_of(self.space, weights)
        if numbers is None:
            raise NoPrediction("the search moved fewer numbers than these weights have: " + said(self.space))
        if not any(numbers):
            return Interval(0.0, 0.0, 0.0)
        fitted = float(quadratic.predict(self.coefficients, np.array([numbers]))[0])
        freedom = self.trials - len(self.coefficients)
        half = float(student.ppf((1 + LEVEL) / 2, freedom)) * self.sigma * np.sqrt(1 + self._leverage(numbers))
        return Interval(*(self._change(end) for end in (fitted, fitted - half, fitted + half)))

    def _change(self, fitted: float) -> float:
        return float(self.zero * np.expm1(fitted) if self.logarithm else fitted)

    def _leverage(self, numbers: Sequence[float]) -> float:
        """Variance of the fitted value in units of that of a trial: vᵀ(G + λ)⁻¹ G (G + λ)⁻¹ v of ridge regression."""
        v = quadratic.terms(np.array([numbers]))[0] / self.scale
        u = np.linalg.solve(self.gram + quadratic.RIDGE * self.trials * np.eye(len(v)), v)
        return float(u @ self.gram @ u)


def numbers_of(space: Space, weights: Sequence[float]) -> Weights | None:
    """The numbers of a space that stand for these weights; None where there are none."""
    if isinstance(space, Each):
        numbers = tuple(weights[i] for i in space.free)
    elif isinstance(space, Steps):
        numbers = tuple(weights[share[0]] * size for share, size in zip(space.shares, space.sizes, strict=True))
    else:
        return None
    there = not any(weights) or np.allclose(space.full(numbers), weights, rtol=0, atol=1e-9)
    return numbers if there else None


def said(space: Space) -> str:
    """How the numbers of a space move weights, for people."""
    if isinstance(space, Steps):
        return "one step a direction, shared out evenly over its vectors"
    return "some weights are fixed by merge_search.fixed"
