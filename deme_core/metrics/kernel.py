"""Kernel distance between two feature sets (KID, when the features are Inception's)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.moments import Array, feature_matrix


def kernel_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Unbiased squared MMD between x [n, D] and y [m, D], n, m >= 2, under the kernel (x·y/D + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401. The expectation is exact at any n and m,
    so between two samples of one distribution it is often negative; it is never clipped. Memory: a few
    float64 matrices of the largest of [n, n], [m, m] and [n, m]. A large set is given in blocks of some
    thousand rows: the mean over blocks is unbiased too, and their spread gives the interval.
    ValueError for fewer than two rows, differing D, or values that are not finite.
    """
    a, b = feature_matrix(x, "x"), feature_matrix(y, "y")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"x has dimension {a.shape[1]} and y {b.shape[1]}; the dimensions must be equal: use one feature "
            "extractor for both"
        )
    if min(len(a), len(b)) < 2:
        raise ValueError(f"x has {len(a)} rows and y {len(b)}; both need at least 2: give more features")
    between = float(_kernel(a @ b.T, a.shape[1]).mean())
    return _mean_over_distinct_pairs(a) + _mean_over_distinct_pairs(b) - 2 * between


def _mean_over_distinct_pairs(x: Array) -> float:
    """Mean kernel over pairs i != j of the rows of x; the pairs i = j are what would bias the plain mean."""
    n, dimension = x.shape
    equal_pairs = _kernel(np.einsum("nd,nd->n", x, x), dimension)
    return float((_kernel(x @ x.T, dimension).sum() - equal_pairs.sum()) / (n * (n - 1)))


def _kernel(products: Array, dimension: int) -> Array:
    """(x·y/D + 1)^3 from inner products x·y of any shape."""
    base = products / dimension + 1.0
    return base * base * base  # several times faster than **3, which goes through pow
