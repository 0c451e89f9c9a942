"""Inner products of noisy gradients without bias, and intervals of what is computed from them.

‖ĝ‖² of a mean over n draws is too large by tr(Σ)/n, and a cosine of two such means is too near to 0. The product of two
means over independent draws, ⟨ĝᵏ, ĝˡ⟩ with k ≠ l, has neither fault: of K groups of draws all K(K − 1) are averaged.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deme_core.metrics.intervals import t_interval
from deme_core.metrics.moments import Array

Mask = np.ndarray[Any, np.dtype[np.bool]]
Statistic = Callable[[Array], Array]
"""Inner products [R, R] -> whatever is asked of them; NaN where they do not say."""


class Estimates(NamedTuple):
    """Estimates of one shape with the ends of their 95 % intervals; NaN where the sample does not say."""

    value: Array
    low: Array
    high: Array

    @property
    def told(self) -> Mask:
        """Which are told from 0."""
        return (self.low > 0) | (self.high < 0)


def products(gram: Array, kept: Sequence[int]) -> Array:
    """⟨g_a, g_b⟩ without bias, [R, R]: the mean over pairs of different groups among `kept`.

    Args:
        gram: [R, K, R, K], the product of quantity a in group k with quantity b in group l.
    """
    of_kept = gram[:, kept][:, :, :, kept]
    same = np.einsum("akbk->ab", of_kept)
    n = len(kept)
    return (of_kept.sum((1, 3)) - same) / (n * (n - 1))


def estimate(gram: Array, statistic: Statistic) -> Estimates:
    """A statistic of the unbiased products by the jackknife over groups, whose pseudovalues get a t interval.

    Where the true gradient is 0 the interval is too wide rather than too narrow: the jackknife then reads about twice
    the variance (Efron and Stein 1981).
    """
    groups = range(gram.shape[1])
    K = len(groups)
    whole = np.asarray(statistic(products(gram, groups)))
    pseudo = np.stack(
        [K * whole - (K - 1) * np.asarray(statistic(products(gram, [k for k in groups if k != j]))) for j in groups]
    )
    found = np.full((3, whole.size), np.nan)
    for at, values in enumerate(pseudo.reshape(K, -1).T):
        if np.isfinite(values).all():
            interval = t_interval(values)
            found[:, at] = interval.value, interval.low, interval.high
    return Estimates(*found.reshape(3, *whole.shape))


def cosines(inner: Array) -> Array:
    """Cosine similarity [R, R] of inner products; NaN beside a squared norm that is not above 0."""
    squares = np.diagonal(inner)
    norms = np.sqrt(np.where(squares > 0, squares, np.nan))
    return inner / np.outer(norms, norms)
