"""Precision and recall of generated images: how much of each set lies on the other's manifold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.moments import Array, feature_matrix


def precision_recall(real: ArrayLike, generated: ArrayLike, k: int = 3, chunk_rows: int = 256) -> tuple[float, float]:
    """Shares in [0, 1]: of `generated` [n, D] on the manifold of `real` [m, D], and of `real` on that of `generated`.

    A set's manifold is the union of the balls around its rows, each reaching to the row's k-th nearest neighbour in
    the set (Kynkäänniemi et al. 2019, arXiv 1904.06991, Eq. 1 and 2, where n = m = 50,000, k = 3). Both grow with the
    numbers of rows: compare only at equal n and m. Memory: float64 copies of both inputs and a few times
    `chunk_rows` * max(n, m) values; the result does not depend on `chunk_rows`.

    ValueError for differing D, no more than k rows, or values that are not finite.
    """
    x, y = feature_matrix(real, "real"), feature_matrix(generated, "generated")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"real has dimension {x.shape[1]} and generated {y.shape[1]}; the dimensions must be equal: use one feature"
            " extractor for both"
        )
    if k < 1 or min(len(x), len(y)) <= k:
        raise ValueError(f"k = {k} of {len(x)} real and {len(y)} generated rows; 1 <= k < rows must hold: lower k")
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre  # a common offset would cost digits in the products
    return _share_covered(y, x, k, chunk_rows), _share_covered(x, y, k, chunk_rows)


def _share_covered(queries: Array, rows: Array, k: int, chunk_rows: int) -> float:
    """Share of `queries` in the ball of at least one of `rows`."""
    radii = np.empty(len(rows))
    for start in range(0, len(rows), chunk_rows):
        squares = _squared_distances(rows[start : start + chunk_rows], rows)
        index = np.arange(len(squares))
        squares[index, start + index] = np.inf
        radii[start : start + chunk_rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    covered = 0
    for start in range(0, len(queries), chunk_rows):
        squares = _squared_distances(queries[start : start + chunk_rows], rows)
        covered += int((squares <= radii).any(axis=1).sum())
    return covered / len(queries)


def _squared_distances(a: Array, b: Array) -> Array:
    """|a_i - b_j|^2, [len(a), len(b)], never below 0."""
    norms = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b)
    return np.maximum(norms - 2.0 * (a @ b.T), 0.0)
