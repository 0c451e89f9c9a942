"""CMMD: maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024, arXiv 2401.09603)."""

import numpy as np
from numpy.typing import ArrayLike

from deme_core.metrics.moments import Array, feature_matrix

SIGMA, SCALE = 10.0, 1000.0  # of the paper: bandwidth of the kernel, and the factor that the result is printed with
CHUNK_ROWS = 2048  # rows of a kernel matrix in memory at once


class CmmdReference:
    """The real side; the term that belongs to it alone is computed once."""

    def __init__(self, reference: ArrayLike) -> None:
        """`reference` [m, D]; rows are brought to length 1, as the paper's embeddings are."""
        self._rows = _normalised(reference, "reference")
        self._within = _mean_kernel(self._rows, self._rows)

    def distance(self, features: ArrayLike) -> float:
        """1000 × the squared MMD of features [n, D] under exp(−‖x − y‖² / 2σ²), σ = 10.

        The paper's estimator: pairs of a row with itself are counted, so that it is never below 0 and reads too high by
        about a constant / n; compare at equal n.
        """
        rows = _normalised(features, "features")
        return SCALE * (_mean_kernel(rows, rows) + self._within - 2 * _mean_kernel(rows, self._rows))


def _normalised(rows: ArrayLike, name: str) -> Array:
    matrix = feature_matrix(rows, name)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name}: row {int(np.argmin(lengths))} is zero, which has no direction")
    return matrix / lengths


def _mean_kernel(a: Array, b: Array) -> float:
    """Of all pairs; rows have length 1, so that ‖x − y‖² = 2 − 2 x·y."""
    chunks = (a[start : start + CHUNK_ROWS] for start in range(0, len(a), CHUNK_ROWS))
    return sum(float(np.exp((chunk @ b.T - 1) / SIGMA**2).sum()) for chunk in chunks) / (len(a) * len(b))
