"""What each search method tries, by hand."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from made_up_scores import bowl, made_up_round, nominated, slope

from deme_core.search.first_round import BudgetSpent
from deme_core.search.methods import (
    grid_count,
    nominate,
    scale_points,
)
from deme_core.search.trials import Weights

# Optuna


@pytest.mark.parametrize("method", ["cmaes", "tpe", "gp"])
def test_optunas_study_lies_on_disk_and_a_second_run_writes_it_anew(method: str, tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    for _ in range(2):
        first_round = made_up_round(bowl, method=method, budget=60, study=tmp_path / "optuna.log")
        nominate(first_round)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
        study = optuna.load_study(study_name=method, storage=storage)
        assert [trial.value for trial in study.trials] == list(first_round.tried.values())
        assert [tuple(trial.params.values()) for trial in study.trials] == [w for w, _ in first_round.tried]


# What each method tries, by hand


@pytest.mark.parametrize("values", [(0.0, 0.25, 0.5), (0.5, 0.5), (-0.0, 0.0, 1.0), (0.25,), (1.0, 0.5, 1.0)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_grid_is_the_product_and_the_anchors(n: int, values: tuple[float, ...]) -> None:
    first_round = made_up_round(lambda w, block: 1.0, N=n, values=values, budget=1000)
    nominated("grid", first_round)
    expected = {*itertools.product(values, repeat=n), (0.0,) * n, (1 / n,) * n}
    assert set(first_round.tried) == {(w, 0) for w in expected}
    assert grid_count(n, first_round.params, first_round.anchors()) == len(expected) == first_round.count


def test_a_grid_is_tried_point_by_point() -> None:
    """4^16 points would fill the memory before the first trial; the budget ends after three."""
    first_round = made_up_round(lambda w, block: 1.0, N=16, values=(0.0, 0.25, 0.5, 1.0), budget=30)
    tracemalloc.start()
    try:
        nominated("grid", first_round)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert [w for w, _ in first_round.tried] == [(0.0,) * 16, (1 / 16,) * 16, (*(0.0,) * 15, 0.25)]


def test_coordinate_descent_changes_one_weight_at_a_time_over_the_values() -> None:
    best = (0.5, 0.0, 0.25, 0.5, 0.0)
    values = (0.0, 0.25, 0.5)
    score = lambda w, block: float(np.sum((np.array(w) - best) ** 2))  # noqa: E731
    first_round = made_up_round(score, N=5, values=values, budget=10_000)
    assert nominated("coordinate", first_round)[0].weights == best
    tried = [w for w, _ in first_round.tried]
    assert set(tried[:2]) == set(first_round.anchors())
    for k, weights in enumerate(tried[2:], 2):
        moved = [[(i, a) for i, (a, b) in enumerate(zip(weights, v, strict=True)) if a != b] for v in tried[:k]]
        assert any(len(change) == 1 and change[0][1] in values for change in moved)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_scales_are_those_of_the_mean_of_the_vectors(n: int) -> None:
    first_round = made_up_round(lambda w, block: 1.0, N=n)
    nominated("scale", first_round)
    expected = [*first_round.anchors(), *((scale / n,) * n for scale in (0.25, 0.5, 0.75, 1.5))]  # 0 and 1 stand first
    assert list(first_round.tried) == [(w, 0) for w in expected]
    repeated = made_up_round(N=n, scales=(1.0, 0.0, 0.5, 0.5))
    assert scale_points(n, repeated.params, repeated.anchors()) == [*first_round.anchors(), (0.5 / n,) * n]
    assert scale_points(n, made_up_round(N=n, scales=()).params, first_round.anchors()) == first_round.anchors()


ALONE = {(1.0, 0.0, 0.0): 5.0, (0.0, 1.0, 0.0): 3.0, (0.0, 0.0, 1.0): 4.0}  # 2 is the best, then 3, then 1

THIRDS = (1 / 3,) * 3


@pytest.mark.parametrize(
    ("averages", "tried", "best"),
    [
        # 3 joins 2; then 1 joins neither.
        ({(0.0, 0.5, 0.5): 2.5}, [(0.0, 0.5, 0.5)], (0.0, 0.5, 0.5)),
        # 3 does not join; then 1 joins 2 alone.
        ({(0.0, 0.5, 0.5): 3.5, (0.5, 0.5, 0.0): 2.0}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], (0.5, 0.5, 0.0)),
        # As good is not better: 3 does not join.
        ({(0.0, 0.5, 0.5): 3.0, (0.5, 0.5, 0.0): 2.9}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], (0.5, 0.5, 0.0)),
        # None joins.
        ({(0.0, 0.5, 0.5): 9.0, (0.5, 0.5, 0.0): 9.0}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], (0.0, 1.0, 0.0)),
        # All join: the whole soup is the uniform merge, which was tried first.
        ({(0.0, 0.5, 0.5): 2.5, THIRDS: 2.0}, [(0.0, 0.5, 0.5)], THIRDS),
    ],
)
def test_the_greedy_soup_by_hand(averages: dict[Weights, float], tried: list[Weights], best: Weights) -> None:
    table = {(0.0,) * 3: 6.0, THIRDS: 8.0} | ALONE | averages
    first_round = made_up_round(lambda w, block: table[w], N=3)
    assert nominated("greedy", first_round)[0].weights == best
    assert list(first_round.tried) == [(w, 0) for w in (*first_round.anchors(), *ALONE, *tried)]


# What a method works with


def test_fixed_weights_are_filled_in_and_left_out_of_the_slope() -> None:
    seen = []
    first_round = made_up_round(
        lambda w, block: float(seen.append(w) or 1.0), N=3, fixed=(None, 0.75, None),
        gradient=lambda w, block: (float(len(w)), [1.0, 2.0, 3.0]),
    )  # fmt: skip
    assert (first_round.N, first_round.free, first_round.anchors()) == (2, [0, 2], [(0.0, 0.0), (1 / 3, 1 / 3)])
    first_round.score((0.25, 0.5))
    assert seen == [(0.25, 0.75, 0.5)] == [first_round.full((0.25, 0.5))]
    assert first_round.loss_gradient((0.25, 0.5)) == (3.0, [1.0, 3.0])


def test_a_trial_is_paid_for_once_a_block_and_never_beyond_the_budget() -> None:
    first_round = made_up_round(bowl, budget=25)
    scores = [first_round.score((0.0, 0.0), block) for block in (0, 0, 1)]
    assert scores == [bowl((0.0, 0.0))] * 3
    assert (first_round.spent, first_round.trials) == (20, 2)
    with pytest.raises(BudgetSpent):
        first_round.score((0.5, 0.5))
    assert first_round.spent == 20 and len(first_round.tried) == 2


def test_a_loss_costs_its_network_calls_in_sampled_images() -> None:
    first_round = made_up_round(loss=bowl, gradient=slope, budget=20)  # 10 images, 20 calls a sampled image
    first_round.loss((0.0, 0.0))
    assert first_round.spent == 0.5
    first_round.loss_gradient((0.0, 0.0))  # backwards is twice forwards
    assert first_round.spent == 2
    for _ in range(36):
        first_round.loss((0.0, 0.0))
    with pytest.raises(BudgetSpent):
        first_round.loss((0.0, 0.0))


def test_a_change_is_the_mean_over_the_blocks_that_zero_was_scored_on_too() -> None:
    table = {((0.0, 0.0), 0): 5.0, ((0.0, 0.0), 1): 7.0, ((0.5, 0.5), 0): 4.0, ((0.5, 0.5), 1): 4.0}
    table |= {((0.5, 0.5), 2): -99.0, ((1.0, 1.0), 2): 0.0}
    first_round = made_up_round(lambda w, block: table[w, block])
    for w, block in table:
        first_round.score(w, block)
    assert first_round.change((0.5, 0.5)) == -2
    assert first_round.change((0.0, 0.0)) == 0
    assert first_round.change((1.0, 1.0)) is None
    assert [n.weights for n in first_round.ranked()] == [(0.5, 0.5), (0.0, 0.0)]  # by block 0
