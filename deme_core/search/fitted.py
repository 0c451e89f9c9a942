"""Methods that fit a quadratic to trials on the same images: over all weights, or first over one step a direction."""

from contextlib import suppress

import numpy as np

from deme_core.search import surrogate as quadratic
from deme_core.search.first_round import BudgetSpent, FirstRound, Nomination
from deme_core.search.objective import relative
from deme_core.search.spaces import Steps

STAYS = 0.02  # of the bounds' width: the surrogate's lowest point has settled


def surrogate(first_round: FirstRound) -> list[Nomination]:
    """A quadratic in w, fitted to trials on the same images; where it is lowest is tried, added, and fitted again.

    On common noise the score of a merge is close to a quadratic in w (docs/experiments/search.md), so that few points
    give all of it. Four fifths of the trials are spread evenly; the others follow the quadratic's lowest point until it
    stays.
    """
    return _lowest_points(first_round, first_round.trials)


def joint(first_round: FirstRound) -> list[Nomination]:
    """One step a direction by the surrogate; then how the experts share theirs out, as one more finalist.

    A trial's noise is larger than what several weights gain over their sum, so that the steps come first. The split
    has what trials are left; its finalist counts only where it beats the even one beyond the noise.
    """
    steps, trials = first_round.space, first_round.trials
    assert isinstance(steps, Steps), "joint searches steps along directions"
    reserved = split_trials(len(steps.shares[0]))
    reserved = reserved if trials - reserved >= surrogate_trials(first_round.N) else 0
    ratio = relative(first_round.params.objective)
    found = _lowest_points(first_round, trials - reserved, logarithm=ratio)
    if reserved:
        even = found[0]
        first_round.enter(steps.split(even.weights))
        split = _lowest_points(first_round, reserved, logarithm=ratio)[0]
        first_round.enter(steps)
        if split.weights != even.weights:
            change = None if even.change is None or split.change is None else even.change + split.change
            found.insert(1, Nomination(split.weights, change, beside=even.weights))
    return found


class _Quadratic:
    """A quadratic in w through all trials of the space: of the change, or of the logarithm of the ratio to w = 0.

    Far along a step a distance grows like a power of it; its logarithm stays near a quadratic there, too
    (docs/experiments/search.md).
    """

    def __init__(self, first_round: FirstRound, *, logarithm: bool) -> None:
        points = [w for w in first_round.points() if any(w)]
        zero = first_round.score((0.0,) * first_round.N)
        changes = np.array([first_round.change(w) for w in points])
        self.zero = zero if logarithm and min(zero, *(zero + changes)) > 0 else None
        shown = changes if self.zero is None else np.log1p(changes / self.zero)
        self.coefficients = quadratic.fit(np.array(points), shown)
        self.first_round = first_round

    def change(self, w: np.ndarray) -> np.ndarray:
        """The fitted change of the score at w [n, N], [n]."""
        found = quadratic.predict(self.coefficients, w)
        return found if self.zero is None else self.zero * np.expm1(found)

    def lowest(self) -> np.ndarray:
        """Where it is lowest: searched from 0 and from the best trials."""
        first_round = self.first_round
        starts = sorted(first_round.points(), key=first_round.score)[:4]
        found = quadratic.lowest(self.coefficients, first_round.bounds, np.array([(0.0,) * first_round.N, *starts]))
        return np.array(first_round.space.inside(found.tolist()))


def _lowest_points(first_round: FirstRound, trials: int, *, logarithm: bool = False) -> list[Nomination]:
    """The lowest point of the quadratic, half of the way to it, and the one before, by at most so many trials."""
    first = first_round.anchors()
    lowest: list[np.ndarray] = []
    step, last = STAYS * np.diff(np.array(first_round.bounds)).ravel(), first_round.count + trials
    with suppress(BudgetSpent):
        points = [*first, *first_round.spread(trials - trials // 5 - len(first))]
        first_round.expect(points)
        for w in points:
            first_round.score(w)
        while (len(lowest) < 2 or _moved(lowest[-1] - lowest[-2], step)) and first_round.count < last:
            point = _Quadratic(first_round, logarithm=logarithm).lowest()
            first_round.score(point.tolist())
            lowest.append(point)
    fitted = _Quadratic(first_round, logarithm=logarithm)
    lowest.append(fitted.lowest())
    # Half of the way there, too: what noise there is in the fit draws its lowest point too far out. The point before,
    # where it is another one: a finalist costs many images.
    before = [point for point in lowest[-2:-1] if _moved(point - lowest[-1], step)]
    nominated = np.array([lowest[-1], lowest[-1] / 2, *before])
    expected = fitted.change(nominated)
    return [Nomination(first_round.full(w), float(change)) for w, change in zip(nominated, expected, strict=True)]


def _moved(way: np.ndarray, step: np.ndarray) -> bool:
    return bool((np.abs(way) > step).any())


def surrogate_trials(N: int) -> int:
    """The fewest trials for a quadratic in N weights: w = 0, one a coefficient, a quarter more for its lowest point."""
    return 1 + quadratic.count(N) * 5 // 4


def split_trials(experts: int) -> int:
    """The same for what is free in the weights of so many experts whose sum stays."""
    return surrogate_trials(experts - 1) if experts > 1 else 0
