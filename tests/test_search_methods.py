"""The methods of a search: each finds the lowest point of a known quadratic, within its bounds and its budget."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up_scores import BEST, Score, bowl, made_up_round, nominated, slope

from deme_core.search.descent import spread
from deme_core.search.first_round import FirstRound
from deme_core.search.fitted import surrogate_trials
from deme_core.search.methods import METHODS, nominate
from deme_core.search.search import auto_method
from deme_core.search.trials import Weights

DRAWING = ["random", "halving", "surrogate", "cmaes", "tpe", "gp"]

FITTED = ["surrogate"]  # what they nominate was not tried

SCORING = [method for method in METHODS if method not in ("loss", "gradient")]


def round_of(method: str, score: Score = bowl, **changes: Any) -> FirstRound:
    """A round in which a method may only ask what is its own."""
    asked: dict[str, Any] = {"loss": {"loss": score}, "gradient": {"gradient": slope}}
    return made_up_round(**asked.get(method, {"score": score}), **changes)


# The lowest point of a noiseless quadratic


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("method", "trials", "tolerance"),
    [
        ("grid", 30, 0.051), ("coordinate", 30, 0.051), ("random", 200, 0.15), ("halving", 400, 0.15),
        ("surrogate", 30, 0.01), ("cmaes", 150, 0.05), ("tpe", 60, 0.15), ("gp", 20, 0.05),
        ("loss", 30, 1e-3), ("gradient", 400, 0.02),
    ],
)  # fmt: skip
def test_the_lowest_point_of_a_quadratic_is_found(method: str, trials: int, tolerance: float, seed: int) -> None:
    """(0.25, −0.25) is the lowest of the grid's points; the others take any."""
    best, *_ = nominated(method, round_of(method, seed=seed, budget=10 * trials))
    np.testing.assert_allclose(best.weights, BEST, atol=tolerance)


@pytest.mark.parametrize("method", ["surrogate", "gradient", "grid"])
@pytest.mark.parametrize("N", [1, 3, 4])
def test_the_lowest_point_is_found_for_any_number_of_weights(method: str, N: int) -> None:
    best = (0.5, -0.25, 1.0, 0.25)[:N]

    def score(w: Weights, block: int) -> float:
        return float(np.sum((np.array(w) - best) ** 2))

    def with_slope(w: Weights, block: int) -> tuple[float, list[float]]:
        return score(w, block), list(2 * (np.array(w) - best))

    changes = {"gradient": with_slope} if method == "gradient" else {"score": score}
    found, *_ = nominated(method, made_up_round(N=N, budget=7000, **changes))
    np.testing.assert_allclose(found.weights, best, atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_proposes_the_same_and_another_one_something_else(method: str) -> None:
    asked: list[list[tuple[Weights, int]]] = []
    for seed in (0, 0, 1):
        calls: list[tuple[Weights, int]] = []
        asked.append(calls)

        def score(w: Weights, block: int = 0, calls: list[tuple[Weights, int]] = calls) -> float:
            calls.append((w, block))
            return bowl(w)

        def gradient(w: Weights, block: int = 0, score: Score = score) -> tuple[float, list[float]]:
            return score(w, block), slope(w)[1]

        nominated(method, made_up_round(score, loss=score, gradient=gradient, seed=seed, budget=160))
    assert asked[0] == asked[1]
    assert (asked[0] != asked[2]) == (method in DRAWING)


@pytest.mark.parametrize("method", SCORING)
def test_what_is_nominated_first_has_the_lowest_score_and_its_change(method: str) -> None:
    first_round = round_of(method, budget=300)
    found = nominated(method, first_round)
    zero = bowl((0.0, 0.0))
    scores = [bowl(nomination.weights) for nomination in found]
    assert scores[0] <= min(first_round.tried.values()) + 1e-4
    assert scores == sorted(scores) or method in FITTED
    for nomination, score in zip(found, scores, strict=True):
        assert nomination.change == pytest.approx(score - zero, abs=2e-3 if method in FITTED else 1e-12)


@pytest.mark.parametrize(("method", "objective"), [("loss", "frechet"), ("loss", "loss"), ("gradient", "loss")])
def test_a_method_on_the_loss_samples_nothing(method: str, objective: str) -> None:
    first_round = made_up_round(loss=bowl, gradient=slope, objective=objective)
    (best,) = nominated(method, first_round)
    assert first_round.tried == {}
    assert best.change is None
    assert 0 < first_round.spent < 40


# Where scores are noisy


def tilted(seed: int) -> Score:
    """The bowl + a + b·w with an a and a b of each block: the luck of its seeds."""

    def score(w: Weights, block: int) -> float:
        luck = np.random.default_rng((seed, block)).normal(0, (1.0, 0.2, 0.2))
        return bowl(w) + float(luck[0] + luck[1:] @ np.array(w))

    return score


def test_where_each_trial_has_its_own_luck_the_surrogate_lands_nearer_than_the_best_trial() -> None:
    """A fit averages over its trials; the best of many is best partly by luck."""
    lost: dict[str, list[float]] = {"grid": [], "surrogate": []}
    for seed, method in itertools.product(range(20), lost):
        rng = np.random.default_rng(seed)
        noisy = lambda w, block, rng=rng: bowl(w) + rng.normal(0, 0.1)  # noqa: E731
        values = (-0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
        best, *_ = nominated(method, made_up_round(noisy, values=values, budget=370, seed=seed))
        lost[method].append(bowl(best.weights) - 1)
    assert np.mean(lost["surrogate"]) < np.mean(lost["grid"]) / 2


def test_luck_that_all_weights_share_on_a_block_changes_nothing() -> None:
    """Halving compares on the same blocks alone."""

    def lucky(w: Weights, block: int) -> float:
        return bowl(w) + 100 * (-1) ** block * block

    plain, shifted = (nominated("halving", made_up_round(score)) for score in (bowl, lucky))
    assert [n.weights for n in shifted] == [n.weights for n in plain]
    np.testing.assert_allclose([n.change for n in shifted], [n.change for n in plain], atol=1e-8)


@pytest.mark.parametrize(
    ("trials", "finalists", "rungs"),
    [(16, 2, [8, 4, 2]), (16, 3, [8, 4, 3]), (32, 1, [16, 8, 4, 2]), (30, 3, [15, 7, 3]), (8, 3, [4, 3])],
)
def test_halving_scores_the_better_half_on_one_more_block(trials: int, finalists: int, rungs: list[int]) -> None:
    first_round = made_up_round(tilted(0), budget=10 * trials, finalists=finalists)
    found = nominated("halving", first_round)
    blocks = [{w for w, at in first_round.tried if at == block} for block in range(len(rungs))]
    assert [len(alive) for alive in blocks] == rungs
    assert len(first_round.tried) == sum(rungs) <= trials
    assert set(first_round.anchors()) <= blocks[0]
    for k in range(1, len(rungs)):
        mean = {w: np.mean([first_round.tried[w, block] for block in range(k)]) for w in blocks[k - 1]}
        assert blocks[k] == set(sorted(mean, key=lambda w: mean[w])[: rungs[k]])
    means = [np.mean([first_round.tried[n.weights, block] for block in range(len(rungs))]) for n in found]
    assert means == sorted(means)
    assert len(found) >= min(finalists, rungs[-1])


def test_the_surrogate_spreads_four_fifths_and_then_follows_its_lowest_point_until_it_stays() -> None:
    first_round = made_up_round(bowl, budget=300)
    found = nominated("surrogate", first_round)
    assert {block for _, block in first_round.tried} == {0}
    tried = [w for w, _ in first_round.tried]
    assert tried[:2] == first_round.anchors()
    assert 24 < len(tried) < 30  # the others are left: two lowest points of a noiseless quadratic are the same
    np.testing.assert_allclose(tried[24:], [BEST] * len(tried[24:]), atol=0.02)
    assert len({tuple(np.array(w) > 0.5) for w in tried[2:24]}) == 4  # in every corner
    np.testing.assert_allclose(found[1].weights, np.array(found[0].weights) / 2)
    assert len(found) == 2  # the point before is the same


def test_the_surrogate_nominates_the_point_before_where_it_is_another_one() -> None:
    """Each new trial of this score moves the quadratic's lowest point by much."""
    rng = np.random.default_rng(0)
    first_round = made_up_round(lambda w, block: bowl(w) + rng.normal(0, 0.3), budget=80)
    found, tried = nominated("surrogate", first_round), [w for w, _ in first_round.tried]
    assert len(tried) == 8  # the budget ends before the point stays
    assert [n.weights for n in found[2:]] == [tried[-1]]
    assert max(abs(a - b) for a, b in zip(found[0].weights, tried[-1], strict=True)) > 0.04


def test_the_fewest_trials_of_the_surrogate_by_hand() -> None:
    """w = 0 and 5/4 of the terms: 2, 5, 9 and 14 for 1 to 4 weights."""
    assert [surrogate_trials(N) for N in (1, 2, 3, 4)] == [3, 7, 12, 18]


@pytest.mark.parametrize(("trials", "method"), [(6, "coordinate"), (7, "surrogate"), (30, "surrogate")])
def test_auto_is_the_surrogate_where_the_budget_fixes_it(trials: int, method: str) -> None:
    params = made_up_round(bowl, budget=10 * trials).params
    assert params.images == 10
    assert auto_method(2, params) == method
    assert auto_method(3, replace(params, fixed=(None, 0.0, None))) == method  # free weights count


# Weights of every block


def grouped(low: float, pull: float = 0.0) -> tuple[np.ndarray, FirstRound]:
    """What `gradient` finds for two blocks of two weights, whose losses are lowest at BEST and at BEST + `low`."""

    def both(w: Weights, block: int = 0) -> tuple[float, list[float]]:
        (a, da), (b, db) = slope(w[:2]), slope([w[2] - low, w[3]])
        return a + b, [*da, *db]

    first_round = made_up_round(
        loss=lambda w, k: both(w)[0], gradient=both, groups=2, method="gradient", objective="loss",
        towards_shared=pull, budget=3000,
    )  # fmt: skip
    return np.array(nominate(first_round)[0].weights).reshape(2, 2), first_round


def test_every_block_finds_its_own_weights() -> None:
    found, first_round = grouped(0.5)
    assert (first_round.N, first_round.vectors) == (4, 2)
    assert first_round.anchors() == [(0.0,) * 4, (0.5,) * 4]  # 1/N of two task vectors
    np.testing.assert_allclose(found, [BEST, (BEST[0] + 0.5, BEST[1])], atol=1e-3)


def test_the_regulariser_draws_the_blocks_to_shared_weights_and_no_further() -> None:
    loose, tight, shared = (grouped(0.5, pull)[0] for pull in (1.0, 1e4, 1e6))
    assert 0.02 < np.ptp(loose, axis=0)[0] < 0.48
    np.testing.assert_allclose(tight[0], tight[1], atol=1e-2)
    for found in (loose, tight, shared):  # the two bowls are of one shape: the mean of their lowest points stays
        np.testing.assert_allclose(found.mean(0), (BEST[0] + 0.25, BEST[1]), atol=1e-2)


def test_the_spread_by_hand_and_its_slope_by_differences() -> None:
    """Means 1 and 3 of the two weights: all are 1 away."""
    assert spread((0.0, 2.0, 2.0, 4.0), 2)[0] == 1
    assert spread((0.25, 0.5, 0.25, 0.5), 2)[0] == 0
    w = np.array([0.3, -0.2, 0.7, 0.1, 0.0, 0.9])
    slopes = [(spread(w + h, 2)[0] - spread(w - h, 2)[0]) / 2e-5 for h in 1e-5 * np.eye(6)]
    np.testing.assert_allclose(spread(w, 2)[1], slopes, atol=1e-9)


def test_what_is_fixed_is_so_in_every_block() -> None:
    first_round = made_up_round(N=2, fixed=(None, 0.75), groups=3)
    assert (first_round.N, first_round.free) == (3, [0, 2, 4])
    assert first_round.full((0.1, 0.2, 0.3)) == (0.1, 0.75, 0.2, 0.75, 0.3, 0.75)
