"""How a search proposes merge weights: each method spends the budget of the first round and nominates finalists.

A method ends by returning, or when the budget is spent. Candidates that are drawn come from `params.seed`.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from scipy.optimize import minimize

from deme_core.search.descent import descend, spread
from deme_core.search.first_round import BudgetSpent, FirstRound, Nomination
from deme_core.search.fitted import joint, surrogate
from deme_core.search.lines import LINES
from deme_core.search.objective import LOSS
from deme_core.search.settings import SearchParams
from deme_core.search.trials import Weights

Method = Callable[[FirstRound], list[Nomination]]


def nominate(first_round: FirstRound) -> list[Nomination]:
    """What the method of `first_round.params` nominates, best first, within its budget."""
    try:
        return (METHODS | BASELINE_METHODS)[first_round.params.method](first_round)
    except BudgetSpent:
        return first_round.ranked()
    finally:
        first_round.bar.close()


def grid(first_round: FirstRound) -> list[Nomination]:
    """Every point of values^N (Sec. 3.3, which does not name its values), and the anchors."""

    def points() -> Iterator[Weights]:
        return itertools.chain(
            first_round.anchors(), itertools.product(first_round.params.values, repeat=first_round.N)
        )

    first_round.expect(points())
    for w in points():
        first_round.score(w)
    return first_round.ranked()


def grid_count(N: int, params: SearchParams, anchors: list[Weights]) -> int:
    """How many points the grid has: values^N, and the anchors that are none of them."""
    values = {*params.values}
    return len(values) ** N + sum(not values.issuperset(w) for w in anchors)


def coordinate(first_round: FirstRound) -> list[Nomination]:
    """Coordinate descent from the better anchor: one weight at a time over the values, until nothing improves."""
    first_round.expect(first_round.anchors())
    best = min(first_round.anchors(), key=first_round.score)
    for i in itertools.cycle(range(first_round.N)):
        if i == 0:
            start = best
        around = [best, *((*best[:i], v, *best[i + 1 :]) for v in first_round.params.values)]
        first_round.expect(around)
        best = min(around, key=first_round.score)
        if i == first_round.N - 1 and best == start:
            break
    return first_round.ranked()


def random(first_round: FirstRound) -> list[Nomination]:
    """Scrambled Sobol points within the bounds (Bergstra & Bengio 2012 argue for random over grid search)."""
    points = [*first_round.anchors(), *first_round.spread(first_round.trials)]
    first_round.expect(points)
    for w in points:
        first_round.score(w)
    return first_round.ranked()


def halving(first_round: FirstRound) -> list[Nomination]:
    """Successive halving (Jamieson & Talwalkar 2016): all on one block of seeds, the better half on one more, …

    Scores of a rung are means over the blocks so far, the same for all: differences are paired.
    """
    rungs = max(1, int(np.log2(first_round.trials)) - 1)
    # c candidates cost c + c/2 + c/4 + … < 2c trials, as each rung adds one block for the half that is left.
    alive = [*first_round.anchors(), *first_round.spread(max(0, first_round.trials // 2 - 2))]
    for rung in range(rungs):
        first_round.expect(alive, rung)
        score = {w: float(np.mean([first_round.score(w, block) for block in range(rung + 1)])) for w in alive}
        alive = sorted(alive, key=lambda w: score[w])
        if len(alive) <= first_round.params.finalists:
            break
        alive = alive[: max(first_round.params.finalists, len(alive) // 2)]
    return [first_round.nomination(w) for w in alive]


def loss(first_round: FirstRound) -> list[Nomination]:
    """The denoising loss on the training images, by Nelder and Mead's simplex: nothing is sampled."""
    return _minimum_of_loss(first_round, first_round.loss, method="Nelder-Mead")


def gradient(first_round: FirstRound) -> list[Nomination]:
    """The slope of what is made small: of the Fréchet distance through the sampler, or of the loss if that is named."""
    return descent_of_loss(first_round) if first_round.params.objective == LOSS else descend(first_round)


def descent_of_loss(first_round: FirstRound) -> list[Nomination]:
    """The loss by backpropagation to the weights (torch.func.functional_call), by L-BFGS-B.

    With weights of every block of the network, `towards_shared` times `spread` is added, so that a block leaves the
    weights that all share only for what lowers the loss.
    """

    def f(w: Weights) -> tuple[float, np.ndarray]:
        value, slope = first_round.loss_gradient(w)
        penalty, its_slope = spread(first_round.full(w), first_round.vectors)
        pull = first_round.params.towards_shared
        return value + pull * penalty, np.array(slope) + pull * its_slope[first_round.free]

    return _minimum_of_loss(first_round, f, method="L-BFGS-B", jac=True)


def _minimum_of_loss(first_round: FirstRound, f: Callable[[Weights], Any], **how: Any) -> list[Nomination]:
    zero, uniform = first_round.anchors()
    losses = {zero: first_round.loss(zero)}

    def value(w: np.ndarray) -> Any:
        at = tuple(w.tolist())
        found = f(at)
        losses[at] = found[0] if how.get("jac") else found
        return found

    with suppress(BudgetSpent):
        minimize(value, uniform, bounds=[first_round.params.bounds] * first_round.N, **how)
    best = min(losses, key=lambda w: losses[w])
    return [first_round.nomination(best)]


def cmaes(first_round: FirstRound) -> list[Nomination]:
    """CMA-ES (Hansen 2016), through Optuna."""
    return _optuna(
        first_round, lambda optuna, seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    )


def tpe(first_round: FirstRound) -> list[Nomination]:
    """The tree-structured Parzen estimator (Bergstra et al. 2011), through Optuna."""
    return _optuna(first_round, lambda optuna, seed: optuna.samplers.TPESampler(seed=seed, multivariate=True))


def gp(first_round: FirstRound) -> list[Nomination]:
    """A Gaussian process with expected improvement (Jones et al. 1998), through Optuna."""
    return _optuna(first_round, lambda optuna, seed: optuna.samplers.GPSampler(seed=seed))


def _optuna(first_round: FirstRound, sampler: Callable[[Any, int], Any]) -> list[Nomination]:
    """One study from the first trial on; logged trials are told, not sampled again, so that a resume is exact.

    The study lies on disk, for Optuna's own tools: it is written anew by a resume, which needs the log of trials alone.
    """
    import warnings

    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    low, high = first_round.params.bounds
    names = [f"w{i}" for i in range(1, first_round.N + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = None
        if first_round.study:
            first_round.study.parent.mkdir(parents=True, exist_ok=True)
            first_round.study.unlink(missing_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(first_round.study)))
        study = optuna.create_study(
            study_name=first_round.params.method, storage=storage, sampler=sampler(optuna, first_round.params.seed)
        )
        for w in first_round.anchors():
            study.enqueue_trial(dict(zip(names, w, strict=True)))
        for _ in range(first_round.trials):
            study.optimize(
                lambda trial: first_round.score([trial.suggest_float(n, low, high) for n in names]), n_trials=1
            )
    return first_round.ranked()


def line(first_round: FirstRound) -> list[Nomination]:
    """One weight for all vectors, a scale over N; 0 and the line's own step are the anchors."""
    points = scale_points(first_round.N, first_round.params, first_round.anchors())
    first_round.expect(points)
    for w in points:
        first_round.score(w)
    return first_round.ranked()


def scale_points(N: int, params: SearchParams, anchors: list[Weights]) -> list[Weights]:
    """The anchors, then every scale of the vectors' mean."""
    return list(dict.fromkeys([*anchors, *((scale / N,) * N for scale in params.scales)]))


def greedy(first_round: FirstRound) -> list[Nomination]:
    """A baseline: the greedy soup (Wortsman et al. 2022). From the best model on, add the next best where it helps."""
    N = first_round.N
    alone = [tuple(float(i == k) for i in range(N)) for k in range(N)]
    first_round.expect([*first_round.anchors(), *alone])
    for w in first_round.anchors():
        first_round.score(w)
    first, *others = sorted(range(N), key=lambda k: first_round.score(alone[k]))
    soup = {first}
    for k in others:
        candidate = soup | {k}
        if first_round.score(_average(candidate, N)) < first_round.score(_average(soup, N)):
            soup = candidate
    return first_round.ranked()


def _average(soup: set[int], N: int) -> Weights:
    return tuple(1 / len(soup) if k in soup else 0.0 for k in range(N))


METHODS: dict[str, Method] = {
    "grid": grid, "coordinate": coordinate, "random": random, "halving": halving, "surrogate": surrogate,
    "cmaes": cmaes, "tpe": tpe, "gp": gp, "loss": loss, "gradient": gradient,
}  # fmt: skip
BASELINE_METHODS: dict[str, Method] = {**dict.fromkeys(LINES, line), "greedy": greedy, "joint": joint}
