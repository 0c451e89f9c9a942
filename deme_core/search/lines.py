"""Searches of one weight, shared out over all task vectors: its values, and the one that is confirmed beside w = 0."""

from collections.abc import Callable
from typing import NamedTuple

from deme_core.search.settings import SearchParams


class Line(NamedTuple):
    """One row: w runs along the mean of the task vectors."""

    anchor: float
    """w that is tried in any case, and a finalist beside w = 0."""
    values: Callable[[SearchParams], tuple[float, ...]]
    """What else is tried."""


EARLY = (-0.02, -0.05, -0.2, -0.3, -0.5, -1.0)
EPSILON = (-0.05, -0.03, -0.02, -0.01, -0.005, 0.005, 0.02, 0.03, 0.05)
LINES = {
    "scale": Line(1.0, lambda params: params.scales),  # of a baseline's task vectors: as trained
    # From own samples: (1 + w)θ − wθ_s of Neon with its w = 1.
    "away": Line(-1.0, lambda params: tuple(-length for length in params.away)),
    "early": Line(-0.1, lambda params: EARLY),  # from an earlier checkpoint: a tenth of the way that training went
    "epsilon": Line(0.01, lambda params: EPSILON),  # θ + wτ scales ε by 1 − w; w = 1, which makes it 0, is no candidate
}
