"""What a first round moves: a few numbers, and the weights of all task vectors that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import helmert

from deme_core.search.lines import LINES
from deme_core.search.settings import SearchParams
from deme_core.search.trials import Weights

Bounds = tuple[tuple[float, float], ...]
RANGES = "scale"  # the line of the experts' mean: 1 is w = 1/N


class Space(Protocol):
    """Numbers within bounds, and what they mean."""

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest value of each number."""

    @property
    def anchors(self) -> list[Weights]:
        """Numbers that are tried in any case, 0 first; all are finalists."""

    def inside(self, numbers: Sequence[float]) -> Weights:
        """The same numbers, drawn towards 0 as far as no weight leaves its own bounds."""

    def full(self, numbers: Sequence[float]) -> Weights:
        """The weights of all task vectors."""


@dataclass(frozen=True)
class Each:
    """Every weight that params do not fix is a number for itself."""

    given: Weights
    """All weights; what is not fixed stands at 0."""
    free: tuple[int, ...]
    """Which of them move."""
    bounds: Bounds
    anchors: list[Weights]

    @classmethod
    def of(cls, N: int, params: SearchParams, groups: int = 1) -> "Each":
        """N weights for each of `groups` parts of the network."""
        fixed = [*(params.fixed or (None,) * N)] * groups
        free = tuple(i for i, w in enumerate(fixed) if w is None)
        given = tuple(float(w or 0) for w in fixed)
        return cls(given, free, (params.bounds,) * len(free), anchors(len(free), N, params.method))

    def inside(self, numbers: Sequence[float]) -> Weights:
        """They are: a weight's bounds are its number's."""
        return tuple(numbers)

    def full(self, numbers: Sequence[float]) -> Weights:
        """Each number in its place."""
        return _placed(self.given, [(i,) for i in self.free], numbers)


def anchors(free: int, N: int, method: str = "") -> list[Weights]:
    """w = 0 and the uniform weights 1/N, in `free` weights; of a line its own step in the place of the whole one."""
    return [(0.0,) * free, ((LINES[method].anchor if method in LINES else 1) / N,) * free]


@dataclass(frozen=True)
class Steps:
    """One step along each direction, shared out over its task vectors."""

    given: Weights
    """All weights; what is not fixed stands at 0."""
    shares: tuple[tuple[int, ...], ...]
    """Direction -> those of its weights that move; the experts' stand first."""
    sizes: tuple[int, ...]
    """Direction -> number of its task vectors."""
    bounds: Bounds
    anchors: list[Weights]
    """0, then the own step of each direction alone."""
    limits: tuple[float, float]
    """Of an expert's weight."""

    @classmethod
    def of(cls, kinds: Sequence[str], sizes: Sequence[int], params: SearchParams) -> "Steps":
        """Of the experts and further directions, each with its line.

        Args:
            kinds: rows of LINES; the first is RANGES.
            sizes: numbers of task vectors.
            params: whose `bounds` and `fixed` are those of the experts.
        """
        N, further = sizes[0], sum(sizes[1:])
        fixed = [*(params.fixed or (None,) * N), *(None,) * further]
        starts = np.cumsum([0, *sizes]).tolist()
        places = [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]
        bounds = [_lengths(kind, params) for kind in kinds]
        low, high = params.bounds
        bounds[0] = max(bounds[0][0], N * low), min(bounds[0][1], N * high)
        steps = np.diag([LINES[kind].anchor for kind in kinds]).tolist()
        return cls(
            given=tuple(float(w or 0) for w in fixed),
            shares=tuple(tuple(i for i in place if fixed[i] is None) for place in places),
            sizes=tuple(sizes), bounds=tuple(bounds), anchors=[(0.0,) * len(kinds), *map(tuple, steps)],
            limits=params.bounds,
        )  # fmt: skip

    def inside(self, numbers: Sequence[float]) -> Weights:
        """They are: the experts' number is bounded by N times their weights' bounds."""
        return tuple(numbers)

    def full(self, numbers: Sequence[float]) -> Weights:
        """Each step over the number of its vectors."""
        return _placed(self.given, self.shares, [w / size for w, size in zip(numbers, self.sizes, strict=True)])

    def split(self, weights: Weights) -> "Split":
        """How the experts' step in these weights may be shared out otherwise."""
        return Split(weights, self.shares[0], self.limits)


@dataclass(frozen=True)
class Split:
    """The experts' step shared out unevenly: their sum, and the other weights, stay."""

    center: Weights
    """All weights, at 0."""
    free: tuple[int, ...]
    """The experts' weights that move."""
    limits: tuple[float, float]
    """Of each of them."""

    @property
    def bounds(self) -> Bounds:
        """As far to either side as half of an expert's own bounds."""
        half = (self.limits[1] - self.limits[0]) / 2
        return ((-half, half),) * (len(self.free) - 1)

    @property
    def anchors(self) -> list[Weights]:
        """The even split alone."""
        return [(0.0,) * (len(self.free) - 1)]

    def inside(self, numbers: Sequence[float]) -> Weights:
        """The same deviations, all shortened by one factor where a weight would leave its limits."""
        away = self._away(numbers)
        at, (low, high) = np.array([self.center[i] for i in self.free]), self.limits
        room = np.where(away > 0, high - at, at - low).clip(min=0)
        moving = away != 0
        factor = min([1.0, *(room[moving] / np.abs(away[moving]))])
        return tuple(float(factor * number) for number in numbers)

    def full(self, numbers: Sequence[float]) -> Weights:
        """The even split and the deviations from it; rounding leaves no weight beyond its limits."""
        moved = np.array([self.center[i] for i in self.free]) + self._away(numbers)
        return _placed(self.center, [(i,) for i in self.free], moved.clip(*self.limits).tolist())

    def _away(self, numbers: Sequence[float]) -> np.ndarray:
        """Deviations whose sum is 0: coordinates in an orthonormal basis of them, Helmert's."""
        return helmert(len(self.free)).T @ np.array(numbers)


def _lengths(kind: str, params: SearchParams) -> tuple[float, float]:
    """The ends of a line: its values, its own step and 0."""
    values = (0.0, LINES[kind].anchor, *LINES[kind].values(params))
    return min(values), max(values)


def _placed(given: Weights, places: Sequence[Sequence[int]], values: Sequence[float]) -> Weights:
    out = list(given)
    for place, value in zip(places, values, strict=True):
        for i in place:
            out[i] = float(value)
    return tuple(out)
