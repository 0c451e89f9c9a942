"""The first round of a search as its method sees it: free numbers, scores on blocks of seeds, a budget of images."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import qmc

from deme_core.processes import is_main
from deme_core.progress import progress
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import Bounds, Each, Space
from deme_core.search.trials import Weights

Score = Callable[[Weights, int], float]
Gradient = Callable[[Weights, int], tuple[float, Sequence[float]]]
SLOPE_COST = 5  # sampled images: one for the moments; of the second pass one forward, one again, and two backward


class Nomination(NamedTuple):
    """A candidate for the second round, and what the first says of it."""

    weights: Weights
    change: float | None
    """Score minus that of w = 0 on the same seeds, as scored or as fitted; None where nothing was sampled."""
    beside: Weights | None = None
    """Simpler weights, also nominated, which these must beat beyond the noise."""


class BudgetSpent(Exception):
    """The next trial would go beyond `budget`."""


class FirstRound:
    """What a method works with: w has one entry a number of the space, by default one a FREE weight; those that params
    fix are filled in here."""

    def __init__(
        self, N: int, params: SearchParams, score: Score, loss: Score, gradient: Gradient, steps: int,
        *, groups: int = 1, study: Path | None = None, space: Space | None = None,
        expect: Callable[[list[tuple[Weights, int]]], None] | None = None,
    ) -> None:  # fmt: skip
        """The three map (all weights, block k of `images` images) to what is made small; `gradient` adds its slope: of
        the loss where that is the objective, else of the distance.

        Args:
            N: number of task vectors.
            steps: network calls that make a sampled image: a forward image of the loss costs 1 / steps of one.
            groups: parts of the network that have N weights each, part after part.
            study: where Optuna keeps its study; None: in memory.
            space: what w means; None: every free weight for itself.
            expect: is told what `score` will be asked for next.
        """
        self._expect = expect
        self.params, self.steps, self.vectors, self.study = params, steps, N, study
        self.price = 1 / steps if params.objective == "loss" else 1.0  # of an image of a trial, in sampled images
        each = Each.of(N, params, groups)
        self.free = list(each.free)
        self.enter(space or each)
        self.spent, self.count = 0.0, 0  # sampled images, trials
        self.tried: dict[tuple[Weights, int], float] = {}
        self._score, self._loss, self._gradient = score, loss, gradient
        self.bar = progress(
            total=params.budget, desc=f"{params.method} search", unit="image", unit_scale=True, disable=not is_main()
        )

    def enter(self, space: Space) -> None:
        """Let w mean this from now on; what was scored stays paid for, and is no point of the new space."""
        self.space = space
        self._points: dict[Weights, None] = {}

    @property
    def N(self) -> int:
        """How many entries w has."""
        return len(self.space.bounds)

    @property
    def bounds(self) -> Bounds:
        """Of each entry of w."""
        return self.space.bounds

    @property
    def trials(self) -> int:
        """How many trials the budget buys."""
        return int(self.params.budget / (self.params.images * self.price))

    def anchors(self) -> list[Weights]:
        """What is tried in any case: w = 0 and the uniform weights, or a line's step."""
        return self.space.anchors

    def spread(self, count: int) -> list[Weights]:
        """`count` points within the bounds, spread evenly: a scrambled Sobol sequence."""
        if count <= 0:
            return []
        points = qmc.Sobol(self.N, rng=self.params.seed).random_base2(count.bit_length())[:count]
        lowest, highest = zip(*self.bounds, strict=True)
        return [self.space.inside(w) for w in qmc.scale(points, lowest, highest).tolist()]

    def full(self, w: Sequence[float]) -> Weights:
        """All weights."""
        return self.space.full(w)

    def score(self, w: Sequence[float], block: int = 0) -> float:
        """The objective on a seed block, the same images for every w; each (w, block) is sampled and paid for once.

        Raises:
            BudgetSpent: there are no images left for it.
        """
        key = self.full(w), block
        if key not in self.tried:
            self._pay(self.params.images * self.price)
            self.tried[key] = self._score(*key)
            self.bar.set_postfix(best=f"{min(self.tried.values()):.3f}")
        if block == 0:
            self._points.setdefault(tuple(map(float, w)))
        return self.tried[key]

    def expect(self, points: Iterable[Sequence[float]], block: int = 0) -> None:
        """Say that `score` comes for all of these next, in this order: several processes do them side by side."""
        cost, spent, coming = self.params.images * self.price, self.spent, dict[tuple[Weights, int], None]()
        for key in ((self.full(w), block) for w in points) if self._expect else ():
            if key not in self.tried and key not in coming:
                spent += cost
                if spent > self.params.budget:
                    break
                coming[key] = None
        if self._expect and coming:
            self._expect([*coming])

    def loss(self, w: Sequence[float], block: int = 0) -> float:
        """The denoising loss on a block: one network call for each of its `images` images."""
        self._pay(self.params.images / self.steps)
        return self._loss(self.full(w), block)

    def loss_gradient(self, w: Sequence[float], block: int = 0) -> tuple[float, list[float]]:
        """The loss and its gradient over the free weights; a backward pass costs two forward passes."""
        self._pay(3 * self.params.images / self.steps)
        value, gradient = self._gradient(self.full(w), block)
        return value, [float(gradient[i]) for i in self.free]

    def slope(self, w: Sequence[float], block: int = 0) -> tuple[float, list[float]]:
        """The objective and its gradient over the free weights, through the sampler: SLOPE_COST times its images."""
        self._pay(SLOPE_COST * self.params.images)
        value, gradient = self._gradient(self.full(w), block)
        return value, [float(gradient[i]) for i in self.free]

    def points(self) -> list[Weights]:
        """Every w of this space that was scored on block 0, in that order."""
        return list(self._points)

    def change(self, w: Sequence[float]) -> float | None:
        """Mean of score minus that of w = 0 over the blocks that both were scored on."""
        return self.change_of(self.full(w))

    def change_of(self, weights: Weights) -> float | None:
        """The same of all weights."""
        zero = self.full((0.0,) * self.N)
        blocks = [at for v, at in self.tried if v == weights and (zero, at) in self.tried]
        return float(np.mean([self.tried[weights, at] - self.tried[zero, at] for at in blocks])) if blocks else None

    def ranked(self) -> list[Nomination]:
        """Every w that was scored on block 0, best first."""
        return [self.nomination(w) for w in sorted(self.points(), key=self.score)]

    def nomination(self, w: Sequence[float]) -> Nomination:
        """This w with its change."""
        return Nomination(self.full(w), self.change(w))

    def _pay(self, images: float) -> None:
        if self.spent + images > self.params.budget:
            raise BudgetSpent
        self.spent += images
        self.count += 1
        self.bar.update(images)
