"""Copy rate: how often an image lies nearer to a training image than that one's own neighbour does."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deme_core.metrics.moments import Array, feature_matrix


def copy_rate(images: ArrayLike, train: ArrayLike, chunk_rows: int = 256) -> float:
    """Share of generated rows, in [0, 1], that lie suspiciously near to their nearest training row.

    images [n, D], train [m, D]: features or flattened pixels in one scale, n >= 1, m >= 2 distinct rows. A
    row counts when its Euclidean distance to its nearest training row r is smaller than r's distance to the
    nearest OTHER training row: 1 - authenticity of Alaa et al. 2022, arXiv 2102.08921. The rate is not 0
    without copying: measured on real images that were held out, it gives the level that no copying produces.

    Training rows equal in every value count as one; their distance, 0, would let each be copied unnoticed.
    Memory: float64 copies of both inputs and a few times `chunk_rows` * max(m, D) values; the result does not
    depend on `chunk_rows`. ValueError for differing D, too few rows, or values that are not finite.
    """
    queries, rows = feature_matrix(images, "images"), feature_matrix(train, "train")
    if queries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"images have dimension {queries.shape[1]} and train {rows.shape[1]}; the dimensions must be "
            "equal: bring both to one size, or use one feature extractor"
        )
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows = {chunk_rows}; it must be >= 1: leave the default")
    rows = np.unique(rows, axis=0)
    if len(rows) < 2:
        raise ValueError(f"train holds {len(rows)} distinct row; at least 2 are needed: give more images")
    centre = rows.mean(axis=0)
    queries, rows = queries - centre, rows - centre  # a common offset would cost digits in the products
    nearest, to_row = _nearest(queries, rows, chunk_rows)
    chosen, position = np.unique(nearest, return_inverse=True)
    _, to_neighbour = _nearest(rows[chosen], rows, chunk_rows, excluded=chosen)
    return float(np.mean(to_row < to_neighbour[position]))


def _nearest(
    queries: Array, rows: Array, chunk_rows: int, excluded: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.intp], Array]:
    """Index [n] of, and distance [n] to, the row nearest to each query; query i may not take excluded[i]."""
    nearest = np.empty(len(queries), dtype=np.intp)
    distances = np.empty(len(queries))
    squared_norms = np.einsum("md,md->m", rows, rows)
    for start in range(0, len(queries), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        # |q - r|^2 less |q|^2, which is the same for every r.
        scores = squared_norms - 2.0 * (queries[chunk] @ rows.T)
        if excluded is not None:
            scores[np.arange(len(scores)), excluded[chunk]] = np.inf
        nearest[chunk] = scores.argmin(axis=1)
        # Taken anew from the differences: in the scores a tiny distance drowns in the rounding of the norms.
        distances[chunk] = np.linalg.norm(queries[chunk] - rows[nearest[chunk]], axis=1)
    return nearest, distances
