"""Kernel distance between two feature sets (KID, when the features are Inception's)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.moments import Array, feature_matrix

CHUNK_ROWS = 4096  # rows of a kernel matrix in memory at once


class KernelReference:
    """The reference side of a kernel distance; the term that belongs to it alone is computed once."""

    def __init__(self, reference: ArrayLike) -> None:
        """`reference` [m, D], m >= 2; ValueError for fewer rows, or values that are not finite."""
        self._rows = _at_least_two_rows(reference, "y")
        self._powers = _Powers.of(self._rows) if _Powers.pay(self._rows) else None
        self._within = _mean_over_distinct_pairs(self._rows, self._powers)

    def distance(self, x: ArrayLike) -> float:
        """Unbiased squared MMD between x [n, D], n >= 2, and the reference under the kernel (x·y/D + 1)^3.

        Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401. The expectation is exact at any n and m,
        so between two samples of one distribution it is often negative; it is never clipped. Memory: a few float64
        matrices of CHUNK_ROWS * max(n, m), or of CHUNK_ROWS * D^2 where m > D^2. A large set is given in blocks of
        some thousand rows: the mean over blocks is unbiased too, and their spread gives the interval.
        ValueError for fewer than two rows, differing D, or values that are not finite.
        """
        a, b = _at_least_two_rows(x, "x"), self._rows
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                f"x has dimension {a.shape[1]} and y {b.shape[1]}; the dimensions must be equal: use one feature "
                "extractor for both"
            )
        pairs = _Powers.of(a).sum_over_pairs(self._powers) if self._powers else _sum_over_pairs(a, b)
        return _mean_over_distinct_pairs(a) + self._within - 2 * pairs / (len(a) * len(b))


def kernel_distance(x: ArrayLike, y: ArrayLike) -> float:
    """The kernel distance of x [n, D] and y [m, D], symmetric. For many x, keep a KernelReference."""
    return KernelReference(y).distance(x)


def _at_least_two_rows(rows: ArrayLike, name: str) -> Array:
    matrix = feature_matrix(rows, name)
    if len(matrix) < 2:
        raise ValueError(f"{name} has {len(matrix)} row; at least 2 are needed: give more features")
    return matrix


@dataclass(frozen=True)
class _Powers:
    """Sums over the rows x of a set of 1, x, x⊗x and x⊗x⊗x.

    The kernel is a polynomial of degree 3, so that its sum over the pairs of two sets is a product of these: n·D³
    operations and not n·m·D.
    """

    sums: tuple[Array, Array, Array, Array]

    @staticmethod
    def pay(rows: Array) -> bool:
        """Whether there are so many rows that this is less work than their pairs."""
        return len(rows) > rows.shape[1] ** 2

    @classmethod
    def of(cls, rows: Array) -> _Powers:
        """Of the rows [n, D]."""
        dimension = rows.shape[1]
        third = np.zeros((dimension, dimension * dimension))
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[start : start + CHUNK_ROWS]
            third += chunk.T @ (chunk[:, :, None] * chunk[:, None, :]).reshape(len(chunk), -1)
        return cls((np.array(float(len(rows))), rows.sum(axis=0), rows.T @ rows, third))

    def sum_over_pairs(self, other: _Powers) -> float:
        """Of the kernel (x·y/D + 1)^3."""
        dimension = len(self.sums[1])
        products = [float((a * b).sum()) for a, b in zip(self.sums, other.sums, strict=True)]
        return sum(math.comb(3, k) * product / dimension**k for k, product in enumerate(products))


def _mean_over_distinct_pairs(x: Array, powers: _Powers | None = None) -> float:
    """Mean kernel over pairs i != j of the rows of x; the pairs i = j are what would bias the plain mean."""
    n, dimension = x.shape
    equal_pairs = _kernel(np.einsum("nd,nd->n", x, x), dimension)
    pairs = powers.sum_over_pairs(powers) if powers else _sum_over_pairs(x, x)
    return float((pairs - equal_pairs.sum()) / (n * (n - 1)))


def _sum_over_pairs(a: Array, b: Array) -> float:
    chunks = (a[start : start + CHUNK_ROWS] for start in range(0, len(a), CHUNK_ROWS))
    return sum(_kernel(chunk @ b.T, a.shape[1]).sum() for chunk in chunks)


def _kernel(products: Array, dimension: int) -> Array:
    """(x·y/D + 1)^3 from inner products x·y of any shape."""
    base = products / dimension + 1.0
    return base * base * base  # several times faster than **3, which goes through pow
