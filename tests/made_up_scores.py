"""Scores with a known optimum, for the tests of search methods."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deme_core.search.first_round import FirstRound, Nomination
from deme_core.search.methods import (
    nominate,
)
from deme_core.search.settings import SearchParams
from deme_core.search.trials import Weights

BEST = (0.3, -0.2)

CURVATURE = np.array([[1.0, 0.4], [0.4, 0.8]])

Score = Callable[[Weights, int], float]


def bowl(w: Sequence[float], block: int = 0) -> float:
    """Lowest at BEST, the same on every block of seeds: 1 there, 1.074 at w = 0."""
    return float(1 + (np.array(w) - BEST) @ CURVATURE @ (np.array(w) - BEST))


def slope(w: Sequence[float], block: int = 0) -> tuple[float, list[float]]:
    """The bowl and its gradient."""
    return bowl(w), list(2 * CURVATURE @ (np.array(w) - BEST))


def refuse(*_: Any) -> Any:
    raise AssertionError("this method samples or differentiates nothing")


def made_up_round(
    score: Score = refuse, N: int = 2, loss: Score = refuse, gradient: Any = refuse, groups: int = 1,
    study: Path | None = None, **changes: Any,
) -> FirstRound:  # fmt: skip
    """A round of 30 trials of 10 images, unless changed; 20 forward images of the loss cost one of them."""
    params = {
        "method": "grid", "objective": "frechet", "budget": 300, "images": 10, "bounds": (-0.5, 1.5), "fixed": None,
        "values": (-0.25, 0.0, 0.25, 0.5, 1.0), "scales": (0.25, 0.5, 0.75, 1.5), "seed": 0, "finalists": 3,
        "per_block": False, "away": (), "towards_shared": 0.001, "final_images": 40, "final_blocks": 2,
    }  # fmt: skip
    return FirstRound(N, SearchParams(**params | changes), score, loss, gradient, steps=20, groups=groups, study=study)


def nominated(method: str, first_round: FirstRound) -> list[Nomination]:
    """As `search` asks for them."""
    first_round.params = replace(first_round.params, method=method)
    return nominate(first_round)
