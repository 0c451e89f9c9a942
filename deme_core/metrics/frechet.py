"""Fréchet distance between two Gaussians given by their moments (FID, when the features are Inception's)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deme_core.metrics.moments import Array, Moments

# Rounding puts eigenvalues of a positive semi-definite matrix below zero by about D * 1e-16 of its norm, and
# storage as float32 by about 1e-7. What lies lower comes from no covariance, and is refused.
NEGATIVE_TOLERANCE = 1e-6


class FrechetReference:
    """The reference side of a Fréchet distance, factored once: each distance then costs one `eigvalsh`.

    d^2 = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2})
    (Dowson and Landau 1982, "The Fréchet distance between multivariate normal distributions"; Heusel et al.
    2017, arXiv 1706.08500). S_a S_b has the eigenvalues of the symmetric R S_b R, R = S_a^{1/2}, so the trace
    of its root is a sum of square roots of real numbers >= 0, and no general matrix root is needed.
    """

    def __init__(self, reference: Moments) -> None:
        """Factor `reference` (n >= 2); a ValueError if its covariance is not positive semi-definite."""
        covariance = reference.covariance
        eigenvalues, vectors = np.linalg.eigh(covariance)
        self._norm = float(np.abs(eigenvalues).max())
        roots = _roots(eigenvalues, self._norm, "the reference's covariance")
        self._mean = reference.mean
        self._trace = float(np.trace(covariance))
        self._root: Array = (vectors * roots) @ vectors.T

    def distance(self, moments: Moments) -> float:
        """Squared distance, as FID is reported, of `moments` (n >= 2, same D) to the reference.

        A finite sample reads too high, by about a constant / n: compare only at equal n. Not clipped at 0:
        between equal sets, rounding may leave a value below it, by less than 1e-7 of the trace.
        """
        if moments.total.size != self._mean.size:
            raise ValueError(
                f"features of dimension {moments.total.size} against a reference of {self._mean.size}; the "
                "dimensions must be equal: use one feature extractor for both"
            )
        covariance = moments.covariance
        offset = moments.mean - self._mean
        eigenvalues = np.linalg.eigvalsh(self._root @ covariance @ self._root)
        scale = self._norm * float(np.linalg.norm(covariance))
        trace_of_root = _roots(eigenvalues, scale, "the product of the covariances").sum()
        return float(offset @ offset + self._trace + np.trace(covariance) - 2 * trace_of_root)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Fréchet distance of `a` and `b` (n >= 2, same D), symmetric. For many b, keep a FrechetReference."""
    return FrechetReference(a).distance(b)


def _roots(eigenvalues: NDArray[np.floating], scale: float, name: str) -> Array:
    """Square roots of eigenvalues; those below zero by no more than rounding at `scale` count as 0."""
    smallest = float(eigenvalues.min())
    if smallest < -NEGATIVE_TOLERANCE * scale:
        raise ValueError(
            f"{name} has the eigenvalue {smallest:.3g}; none may be negative beyond rounding: check the file "
            "of statistics, and that rows left out had been added before"
        )
    return np.sqrt(np.maximum(eigenvalues, 0.0), dtype=np.float64)
