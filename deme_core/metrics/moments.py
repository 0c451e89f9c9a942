"""Count, mean and scatter of feature rows: what a Fréchet distance needs, and it adds and subtracts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def feature_matrix(rows: ArrayLike, name: str) -> Array:
    """`rows` as a finite [n, D] float64 matrix, n, D >= 1; anything else is a ValueError that says `name`."""
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} has shape {matrix.shape}; it must be [n, D]: flatten each image to one row")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name} holds NaN or infinity in {np.sum(~finite)} of {len(matrix)} rows; all values must be "
            f"finite: look at row {np.argmin(finite)} first"
        )
    return matrix


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly spread: files may come sorted by class."""
    return rows[np.arange(count) * len(rows) // count]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sufficient statistics of n feature rows x of dimension D.

    n: the number of rows, >= 1.
    total: [D], sum of x.
    outer: [D, D], sum of (x - mean)(x - mean)^T, centred on the mean of these same rows.

    Raw sums of x x^T would lose the covariance to cancellation when the mean is large, and a fixed shift
    would have to be the same for all parts ever added. Centred sums need neither: the scatter between two
    means is put in on adding and taken out on subtracting (Chan, Golub and LeVeque 1983, "Algorithms for
    computing the sample variance"). Build one with `of` or `from_statistics`, never from raw sums; a feature
    set too large for memory is the sum of its batches.
    """

    n: int
    total: Array
    outer: Array

    def __post_init__(self) -> None:
        """Refuse what cannot be moments: no rows, shapes that disagree, values that are not finite."""
        if self.n < 1:
            raise ValueError(f"Moments of n = {self.n} rows; at least 1 is needed: check what was summed")
        if self.total.ndim != 1 or self.outer.shape != (self.total.size, self.total.size):
            raise ValueError(
                f"total has shape {self.total.shape} and outer {self.outer.shape}; they must be [D] and "
                "[D, D]: build Moments with Moments.of"
            )
        if not (np.isfinite(self.total).all() and np.isfinite(self.outer).all()):
            raise ValueError("Moments hold NaN or infinity; all must be finite: check features or file")

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Moments of features [n, D], n >= 1, any real dtype, computed in float64."""
        rows = feature_matrix(features, "features")
        total = rows.sum(axis=0)
        centred = rows - total / len(rows)
        return cls(len(rows), total, centred.T @ centred)

    @classmethod
    def from_statistics(cls, mean: ArrayLike, covariance: ArrayLike, n: int) -> Moments:
        """Moments of n >= 2 rows from their mean [D] and covariance [D, D] (ddof=1), as stored on file."""
        if n < 2:
            raise ValueError(f"a covariance of n = {n} rows; n must be >= 2: give the count behind the file")
        mu, sigma = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
        moments = cls(n, mu * n, sigma * (n - 1))
        if not np.allclose(sigma, sigma.T, rtol=0, atol=1e-6 * np.abs(sigma).max()):
            raise ValueError("covariance differs from its transpose; it must be symmetric: check the file")
        return moments

    @property
    def mean(self) -> Array:
        """Mean [D]."""
        return self.total / self.n

    @property
    def covariance(self) -> Array:
        """Covariance [D, D] with ddof=1, as numpy.cov; a ValueError for a single row."""
        if self.n < 2:
            raise ValueError("the covariance of n = 1 row is undefined; n must be >= 2: give more features")
        return self.outer / (self.n - 1)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together."""
        between = _between(self.n, self.total, other.n, other.total)
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer + between)

    def __sub__(self, part: Moments) -> Moments:
        """Moments of the rows that remain when `part`, rows that were added before, is left out."""
        n, total = self.n - part.n, self.total
        if n < 1:
            raise ValueError(f"cannot leave {part.n} rows out of {self.n}; 1 must remain: swap the operands")
        _check_dimensions(total, part.total)
        total = total - part.total
        return Moments(n, total, self.outer - part.outer - _between(n, total, part.n, part.total))


def _between(n: int, total: Array, m: int, other_total: Array) -> Array:
    """The scatter [D, D] about their common mean that two sets have beyond that about their own means."""
    _check_dimensions(total, other_total)
    offset = total / n - other_total / m
    return np.outer(offset, offset) * (n * m / (n + m))


def _check_dimensions(total: Array, other_total: Array) -> None:
    """Refuse two sums of different D, which array arithmetic might broadcast."""
    if total.size != other_total.size:
        raise ValueError(
            f"Moments of dimension {total.size} and {other_total.size} do not combine; the dimensions must "
            "be equal: use one feature extractor for both"
        )
