"""Searches on made-up scores, for the tests of the search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deme_core.search.methods import BASELINE_METHODS, METHODS
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import Space, Steps
from deme_core.search.trials import TrialLog, Weights
from deme_core.seeds import SeedBlock

OPTIMUM = (0.0, 0.5, 0.25)

ALL = [*METHODS, *BASELINE_METHODS]

OBJECTIVES = ["frechet", "kid", "loss"]  # those that need no prompts

STEPS = 20  # of sampling: the price of an image in forward images


def search_params(**changes: Any) -> SearchParams:
    params = {
        "method": "grid", "objective": "frechet", "budget": 300, "images": 10, "bounds": (-0.5, 1.5), "fixed": None,
        "values": (0.0, 0.25, 0.5), "scales": (0.25, 0.5, 0.75, 1.5), "away": (),
        "per_block": False, "towards_shared": 0.001, "seed": 0, "finalists": 3, "final_images": 40,
        "final_blocks": 2,
    }  # fmt: skip
    return SearchParams(**params | changes)


def quadratic(optimum: Sequence[float]) -> Callable[..., float]:
    """Lowest at the optimum, in both rounds."""
    return lambda w, block, first, images: 1.0 + sum((a - b) ** 2 for a, b in zip(w, optimum, strict=True))


def space_of(params: SearchParams, N: int) -> Space | None:
    """Of `joint` N − 1 experts and one vector of own samples; no other method needs one."""
    return Steps.of(["scale", "away"], [N - 1, 1], params) if params.method == "joint" else None


class Counted:
    """An objective or a loss that records its calls, and may stop at one of them as a killed search does."""

    def __init__(self, score: Callable[..., float], stop_at: int | None = None) -> None:
        self.score, self.stop_at = score, stop_at
        self.calls: list[tuple[Weights, SeedBlock, int, int]] = []
        self.slopes: list[tuple[Weights, SeedBlock, int, int]] = []

    def __call__(self, weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((tuple(weights), block, first, images))
        return self.score(weights, block, first, images)

    value = __call__

    def gradient(self, weights: Sequence[float], *where: Any) -> tuple[float, list[float]]:
        self.slopes.append((tuple(weights), *where))
        ends = [
            [self.score(np.add(weights, sign * 1e-4 * e), *where) for sign in (1, -1)] for e in np.eye(len(weights))
        ]
        return self.score(weights, *where), [(up - down) / 2e-4 for up, down in ends]

    def of(self, block: SeedBlock) -> list[tuple[Weights, SeedBlock, int, int]]:
        return [call for call in (*self.calls, *self.slopes) if call[1] is block]


def searched(
    folder: Path, score: Callable[..., float], N: int, *, loss: Callable[..., float] | None = None, **changes: Any
) -> tuple[dict[str, Any], Counted, Counted]:
    """The result, and what the objective and the loss were asked; the loss is the objective's score, unless given."""
    objective, forwards = Counted(score), Counted(loss or score)
    log = TrialLog(folder / "trials.csv", N)
    params = search_params(**changes)
    space, slope = space_of(params, N), objective.gradient
    return search(objective, forwards, N, params, log, STEPS, space=space, slope=slope), objective, forwards
