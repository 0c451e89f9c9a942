"""The search for w: two rounds, a log of trials, what is refused, and whose search it is."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from searching import ALL, OPTIMUM, STEPS, Counted, quadratic, search_params, searched

from deme_core.errors import InputError
from deme_core.metrics.verdict import verdict_of
from deme_core.search.confirmed import confirmed
from deme_core.search.methods import METHODS
from deme_core.search.objective import (
    geometric_mean,
)
from deme_core.search.search import search
from deme_core.search.trials import TrialLog, Weights
from deme_core.seeds import SeedBlock

# Two rounds


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_the_optimum_on_the_grid_is_the_result(tmp_path: Path, method: str) -> None:
    result, *_ = searched(tmp_path, quadratic(OPTIMUM), 3, method=method)
    change = -(0.25 + 0.0625)
    assert result.weights == result.best == list(OPTIMUM)
    assert (result.method, result.objective) == (method, "frechet")
    assert (result.search_change, result.confirm_change, result.gap) == pytest.approx((change, change, 0))
    assert (result.search_score, result.confirm_score) == pytest.approx((1, 1))
    assert result.confirm_score_pretrained == 1 - change
    assert result.confirm_score_uniform == pytest.approx(1 + sum((1 / 3 - b) ** 2 for b in OPTIMUM))


@pytest.mark.parametrize("method", ALL)
def test_zero_weights_win_ties(tmp_path: Path, method: str) -> None:
    result, *_ = searched(tmp_path, lambda *_: 1.0, 3, method=method)
    assert result.weights == result.best == [0.0, 0.0, 0.0]
    assert (result.method, result.search_change, result.confirm_change, result.gap) == (method, 0, 0, 0)


def test_the_second_round_decides_on_other_seeds_and_more_images(tmp_path: Path) -> None:
    lucky, good = (0.5, 0.5), (0.25, 0.25)
    table = {SeedBlock.SEARCH: {lucky: 0.1, good: 0.2}, SeedBlock.CONFIRM: {lucky: 0.9, good: 0.3, (0.0, 0.0): 0.8}}
    result, objective, _ = searched(tmp_path, lambda w, block, *_: table[block].get(tuple(w), 1.0), 2, finalists=2)
    assert result.weights == [0.25, 0.25]
    assert (result.search_score, result.confirm_score) == pytest.approx((0.2, 0.3))
    assert (result.search_change, result.confirm_change) == pytest.approx((0.2 - 1, 0.3 - 0.8))
    assert result.gap == pytest.approx((0.3 - 0.8) - (0.2 - 1))
    first, second = objective.of(SeedBlock.SEARCH), objective.of(SeedBlock.CONFIRM)
    assert {call[2:] for call in first} == {(0, 10)}
    assert {call[2:] for call in second} == {(0, 20), (20, 20)}  # the seed blocks
    assert {w for w, *_ in second} == {(0.0, 0.0), lucky, good}  # anchors and nominated
    assert (len(second), result.trials) == (6, len(first))


def test_the_uniform_weights_are_confirmed_though_none_nominated_them(tmp_path: Path) -> None:
    """Their first change is that of their own trial."""
    score = lambda w, block, *_: 0.5 if tuple(w) == (0.5, 0.5) and block is SeedBlock.CONFIRM else 1 + max(w)  # noqa: E731
    result, *_ = searched(tmp_path, score, 2, finalists=1)
    assert result.weights == [0.5, 0.5]
    assert (result.search_change, result.confirm_change, result.gap) == (0.5, -0.5, -1)


@pytest.mark.parametrize(("noise", "expected"), [(0.0, (0.5, 0.5)), (0.05, (0.5, 0.5)), (0.5, (0.0, 0.0))])
def test_the_best_is_taken_only_where_it_beats_zero_beyond_the_noise(
    tmp_path: Path, noise: float, expected: Weights
) -> None:
    """The change is −0.3 on the mean; the noise of a block is `noise` up or down for all w but zero."""

    def objective(w: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        return 1.0 if not any(w) else 1.0 - 0.6 * w[0] + noise * (-1) ** (first // 20)

    result, *_ = searched(tmp_path, objective, 2, values=(0.0, 0.5), final_images=80, final_blocks=4)
    assert tuple(result.weights) == expected
    assert result.best[0] == 0.5
    ratio = ((0.7 + noise) * (0.7 - noise)) ** 0.5  # the geometric mean over the blocks
    assert (result.best_change, result.best_change_unit) == (pytest.approx(100 * (ratio - 1)), "%")
    assert result.best_change_low <= result.best_change <= result.best_change_high
    assert (result.best_change_high < 0) == any(expected)


def test_distances_are_confirmed_by_their_ratio(tmp_path: Path) -> None:
    """Blocks of 1, 10, 100 and 1000, each 10 % lower: the plain differences show nothing, their ratio does."""
    score = lambda w, block, first, images: 10.0 ** (first // 20) * (0.9 if w[0] else 1.0)  # noqa: E731
    changes = {"values": (0.0, 0.5), "final_images": 80, "final_blocks": 4}
    result, *_ = searched(tmp_path / "ratio", score, 2, **changes)
    assert result.weights[0] == 0.5
    assert result.best_change == pytest.approx(-10) == result.best_change_high
    result, *_ = searched(tmp_path / "difference", score, 2, objective="kid", **changes)
    assert (result.weights, result.best_change_unit) == ([0.0, 0.0], "")
    assert result.best_change < 0 < result.best_change_high


@pytest.mark.parametrize("where", [(0.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("low", [0.0, -1e-12])
def test_a_confirming_score_without_a_ratio_ends_in_one_line(tmp_path: Path, where: Weights, low: float) -> None:
    """A Fréchet distance between what an extractor tells not apart is 0, or below it by rounding."""
    score = lambda w, block, *_: low if block is SeedBlock.CONFIRM and tuple(w) == where else 1.0  # noqa: E731
    message = f"merge_search: a confirming score is {low:g}, and a change is a ratio of scores above 0: the extractor "
    with pytest.raises(InputError, match=f"^{re.escape(message)}.*merge_search.objective=kid$"):
        searched(tmp_path / "ratio", score, 2)
    result, *_ = searched(tmp_path / "difference", score, 2, objective="kid")
    assert result.best == list(where)


def test_a_score_by_several_extractors_is_confirmed_as_judges_are_summed_up() -> None:
    rng = np.random.default_rng(0)
    zero, ours = rng.lognormal(0, 1, (2, 3, 6)) * np.array([1.0, 50.0, 1e-3])[:, None]  # judge, block
    mean = [[geometric_mean([*zip("abc", block, strict=True)]) for block in blocks.T] for blocks in (ours, zero)]
    expected = verdict_of(dict(zip("abc", np.log(ours / zero), strict=True))).change
    found = confirmed(*mean, ratio=True)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_surrogates_first_change_is_the_fitted_one(tmp_path: Path) -> None:
    result, *_ = searched(tmp_path, quadratic((0.5, -0.25)), 2, method="surrogate")
    assert result.weights == pytest.approx([0.5, -0.25], abs=0.01)
    assert result.search_change == pytest.approx(-0.3125, abs=0.005)
    assert result.search_score == pytest.approx(1.3125 + result.search_change)
    assert result.gap == pytest.approx(result.confirm_change - result.search_change, abs=1e-12)


def test_a_search_on_the_loss_has_no_first_change_and_is_confirmed_on_images(tmp_path: Path) -> None:
    result, objective, forwards = searched(
        tmp_path, quadratic((0.5, 0.125)), 2, loss=quadratic((0.5, 0.0)), method="loss"
    )
    assert result.weights == pytest.approx([0.5, 0.0], abs=1e-3)
    assert (result.search_change, result.search_score, result.gap) == (None, None, None)
    assert result.trials >= len(forwards.calls) + len(forwards.slopes) > 2
    assert result.confirm_change == pytest.approx(-0.25, abs=1e-3)
    assert objective.of(SeedBlock.SEARCH) == [] and forwards.of(SeedBlock.CONFIRM) == []


@pytest.mark.parametrize("objective", ["frechet", "loss"])
def test_the_gradient_is_that_of_what_is_made_small(tmp_path: Path, objective: str) -> None:
    result, sampled, forwards = searched(
        tmp_path, quadratic((0.4, -0.2)), 2, loss=quadratic((0.4, -0.2)), method="gradient", objective=objective,
        budget=3000,
    )  # fmt: skip
    assert result.weights == pytest.approx([0.4, -0.2], abs=0.02)
    assert (bool(sampled.slopes), bool(forwards.slopes)) == (objective == "frechet", objective == "loss")
    assert (result.search_change, result.gap) == (None, None)
    if objective == "frechet":  # fresh images at each of 3000 / (5 × 10) steps
        assert [first for _, _, first, _ in sampled.slopes] == list(range(0, 600, 10))
        assert {call[1:] for call in sampled.of(SeedBlock.CONFIRM)} >= {(SeedBlock.CONFIRM, 0, 20)}


@pytest.mark.parametrize("fixed", [(0.25, None), (None, 0.25)])
def test_where_a_weight_is_fixed_off_zero_nothing_is_said_against_zero(
    tmp_path: Path, fixed: tuple[float | None, ...]
) -> None:
    result, objective, _ = searched(tmp_path, quadratic((0.25, 0.25)), 2, fixed=fixed)
    assert result.weights == [0.25, 0.25]
    assert (result.search_change, result.search_score, result.gap) == (None, None, None)
    assert (0.0, 0.0) not in [w for w, *_ in objective.of(SeedBlock.SEARCH)]
    assert result.confirm_change == -0.125


def test_the_result_says_which_weights_stood_for_the_uniform_ones(tmp_path: Path) -> None:
    result, *_ = searched(tmp_path, score := quadratic((0.25, 0.25)), 2, fixed=(1.25, None))
    assert result.uniform == [1.25, 0.5]
    assert result.confirm_score_uniform == score(result.uniform, SeedBlock.CONFIRM, 0, 20)


def test_nothing_is_said_of_uniform_weights_that_the_search_held_against_a_fixed_one(tmp_path: Path) -> None:
    """(0.5, 0.5) was a trial, but the first round's anchor was (0, 0.5) and not w = 0."""
    score = lambda w, block, *_: 0.5 if tuple(w) == (0.5, 0.5) and block is SeedBlock.CONFIRM else 1 + max(w)  # noqa: E731
    result, *_ = searched(tmp_path, score, 2, fixed=(None, 0.5), finalists=1, values=(0.0, 0.25))
    assert result.weights == [0.5, 0.5]
    assert (result.search_change, result.search_score, result.gap) == (None, None, None)


# What every method keeps to


@pytest.mark.parametrize("method", ALL)
def test_budget_and_seeds_are_kept_and_every_image_is_counted(tmp_path: Path, method: str) -> None:
    result, objective, forwards = searched(tmp_path, quadratic((0.5, 0.5, 0.5)), 3, method=method, budget=200)
    first, second = objective.of(SeedBlock.SEARCH), objective.of(SeedBlock.CONFIRM)
    asked = objective.calls + objective.slopes
    assert len(first) + len(second) == len(asked)  # never the seeds of the evaluation
    assert {block for _, block, *_ in forwards.calls} <= {SeedBlock.SEARCH}
    assert all(at % 10 == 0 and images == 10 for *_, at, images in first)  # blocks that do not overlap
    spent = 10 * (len(first) + 4 * len(objective.slopes)) + sum(call[3] for call in forwards.calls) / STEPS
    assert forwards.slopes == []
    if method == "loss":  # a point that the simplex returns to is paid for again, and logged once
        assert spent <= result.images_sampled - 20 * len(second)
    else:
        assert result.images_sampled == pytest.approx(spent + 20 * len(second))
    assert 0 < result.images_sampled - 20 * len(second) <= 200
    assert len(first) == len(set(first))
    assert result.trials >= len(first) + len(forwards.calls)
    assert method == "loss" or result.trials == len(first) + len(forwards.calls)


@pytest.mark.parametrize("method", METHODS)
def test_weights_stay_within_their_bounds_and_reach_negative_ones(tmp_path: Path, method: str) -> None:
    values = (-0.25, 0.0, 0.5)
    for low in (-0.25, 0.0):
        changes = {"bounds": (low, 0.75), "values": [v for v in values if v >= low], "method": method}
        score = quadratic((-1.0, 2.0))  # beyond both
        result, objective, forwards = searched(tmp_path / str(low), score, 2, **changes)
        first = objective.of(SeedBlock.SEARCH) + forwards.of(SeedBlock.SEARCH)
        assert all(low <= v <= 0.75 for w, *_ in first for v in w)
        assert (min(v for w, *_ in first for v in w) < 0) == (low < 0)
        assert (result.weights[0] < 0) == (low < 0)
        assert low <= result.weights[0] and 0 < result.weights[1] <= 0.75


@pytest.mark.parametrize("fixed", [(None, 0.75, None), (0.0, None, None), (None, -1.0, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_a_fixed_weight_has_its_value_in_every_trial(
    tmp_path: Path, method: str, fixed: tuple[float | None, ...]
) -> None:
    score = quadratic([0.5 if value is None else value for value in fixed])
    result, objective, forwards = searched(tmp_path, score, 3, method=method, fixed=fixed, budget=160)
    first = objective.of(SeedBlock.SEARCH) + forwards.of(SeedBlock.SEARCH)
    for i, value in enumerate(fixed):
        assert ({w[i] for w, *_ in first} == {value}) == (value is not None)
        assert value is None or result.weights[i] == value
    zero, uniform = (0.0,) * 3, tuple(1 / 3 if value is None else value for value in fixed)
    confirmed = {w for w, *_ in objective.of(SeedBlock.CONFIRM)}
    assert {zero, uniform} <= confirmed  # w = 0 is θ itself, whatever is fixed
    assert all(value is None or w[i] == value for w in confirmed - {zero} for i, value in enumerate(fixed))


def test_trials_of_the_loss_are_paid_in_forward_images(tmp_path: Path) -> None:
    """A budget of 100 sampled images buys 100 × STEPS forward images."""
    params = search_params(objective="loss", method="random", budget=100)
    score = Counted(quadratic((0.5, 0.5)))
    result = search(score, score, 2, params, TrialLog(tmp_path / "trials.csv", 2), STEPS)  # type: ignore[arg-type]
    first, second = score.of(SeedBlock.SEARCH), score.of(SeedBlock.CONFIRM)
    assert len(first) == result.trials == 10 * STEPS
    assert result.images_sampled == pytest.approx(sum(images for *_, images in first + second) / STEPS)
