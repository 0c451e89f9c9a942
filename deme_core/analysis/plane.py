"""The plane through θ that two task vectors span, in an orthonormal basis: coordinates <-> weights of the two.

u = τ_a/‖τ_a‖ and v = (τ_b − ⟨τ_b, u⟩u)/‖…‖ (Gram-Schmidt, as Wortsman et al. 2022 draw it), so that the point (x, y) is
θ + xu + yv = θ + w_a τ_a + w_b τ_b: a merge like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deme_core.errors import InputError
from deme_core.metrics.moments import Array

PARALLEL = 1e-6  # share of τ_b beyond τ_a, below which there is no plane


@dataclass(frozen=True)
class Plane:
    """θ at (0, 0), θ + τ_a on the first axis."""

    a: float
    """‖τ_a‖, the coordinate of θ + τ_a."""
    along: float
    """⟨τ_b, u⟩, the first coordinate of θ + τ_b."""
    beyond: float
    """The second one, above 0."""

    @classmethod
    def of(cls, gram: Array) -> "Plane":
        """Of the products [2, 2] of two vectors.

        Raises:
            InputError: one is 0, or both are parallel.
        """
        a, b = np.sqrt(np.diagonal(gram))
        along = gram[0, 1] / a if a else 0.0
        beyond = float(np.sqrt(max(b**2 - along**2, 0.0)))
        if not a or beyond <= PARALLEL * b or not b:
            raise InputError(
                "params: analyse.plane: these two task vectors are parallel, or one is 0, and span no plane; name"
                " others"
            )
        return cls(float(a), float(along), beyond)

    def weights(self, x: float, y: float) -> tuple[float, float]:
        """(w_a, w_b) of the point (x, y)."""
        w_b = y / self.beyond
        return (x - self.along * w_b) / self.a, w_b

    def place(self, inner: Sequence[float]) -> tuple[float, float]:
        """(x, y) of the point of the plane next to θ + s, from ⟨s, τ_a⟩ and ⟨s, τ_b⟩."""
        x = inner[0] / self.a
        return x, (inner[1] - self.along * x) / self.beyond

    def grid(self, points: Sequence[tuple[float, float]], side: int) -> tuple[Array, Array]:
        """`side` coordinates along each axis, evenly spaced, around all points; θ is one of them, and no border."""
        return tuple(_axis([0.0, *(point[k] for point in points)], side) for k in (0, 1))  # type: ignore[return-value]


def _axis(values: Sequence[float], side: int) -> Array:
    """Evenly spaced around the values, with 0 among them and about a sixth of their span more at either end."""
    low, high = min(values), max(values)
    step = float(4 / 3 * (high - low) / (side - 1))
    first = int(np.clip(round(((low + high) / 2 - step * (side - 1) / 2) / step), 2 - side, -1))
    return step * np.arange(first, first + side, dtype=np.float64)
