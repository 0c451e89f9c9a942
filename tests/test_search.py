"""The search for w: two rounds, a log of trials, what is refused, and whose search it is."""

import math
import os
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, N, python, sampler_params, search_result, write_experts, write_vectors

from deme_core.checkpoints import load_denoiser
from deme_core.data.archive import read_images
from deme_core.data.examples import Pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.moments import Moments
from deme_core.metrics.verdict import JudgeParams, verdict_of
from deme_core.params import read, section
from deme_core.prompts.settings import PromptParams
from deme_core.sampling.conditions import Conditions
from deme_core.sampling.generate import Sampler
from deme_core.sampling.sample import sample_model
from deme_core.search.check import check_extractors, check_search
from deme_core.search.kinds import KINDS
from deme_core.search.loss import DenoisingLoss
from deme_core.search.methods import BASELINE_METHODS, METHODS, scale_points
from deme_core.search.objective import (
    MergedLoss,
    MergedModel,
    Scorer,
    frechet,
    geometric_mean,
    make_objective,
    score_weights,
)
from deme_core.search.result import SearchResult
from deme_core.search.search import confirmed, search
from deme_core.search.settings import SearchParams
from deme_core.search.trials import Trial, TrialLog, Weights
from deme_core.seeds import SeedBlock

CPU = torch.device("cpu")
DEVELOPMENT = REPOSITORY / "zoo" / "judges" / "digits" / "development"
OPTIMUM = (0.0, 0.5, 0.25)
ALL = [*METHODS, *BASELINE_METHODS]
ON_LOSS = ["loss", "gradient"]
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
    return search(objective, forwards, N, search_params(**changes), log, STEPS), objective, forwards


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
    mean = [[geometric_mean([*zip("abc", own, strict=True)]) for own in blocks.T] for blocks in (ours, zero)]
    expected = verdict_of(dict(zip("abc", np.log(ours / zero), strict=True))).change
    found = confirmed(*mean, "frechet")
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_surrogates_first_change_is_the_fitted_one(tmp_path: Path) -> None:
    result, *_ = searched(tmp_path, quadratic((0.5, -0.25)), 2, method="surrogate")
    assert result.weights == pytest.approx([0.5, -0.25], abs=0.01)
    assert result.search_change == pytest.approx(-0.3125, abs=0.005)
    assert result.search_score == pytest.approx(1.3125 + result.search_change)
    assert result.gap == pytest.approx(result.confirm_change - result.search_change, abs=1e-12)


@pytest.mark.parametrize("method", ON_LOSS)
def test_a_search_on_the_loss_has_no_first_change_and_is_confirmed_on_images(tmp_path: Path, method: str) -> None:
    result, objective, forwards = searched(
        tmp_path, quadratic((0.5, 0.125)), 2, loss=quadratic((0.5, 0.0)), method=method
    )
    assert result.weights == pytest.approx([0.5, 0.0], abs=1e-3)
    assert (result.search_change, result.search_score, result.gap) == (None, None, None)
    assert result.trials >= len(forwards.calls) + len(forwards.slopes) > 2
    assert result.confirm_change == pytest.approx(-0.25, abs=1e-3)
    assert objective.of(SeedBlock.SEARCH) == [] and forwards.of(SeedBlock.CONFIRM) == []
    assert bool(forwards.slopes) == (method == "gradient")


@pytest.mark.parametrize("fixed", [(0.25, None), (None, 0.25)])
def test_where_a_weight_is_fixed_off_zero_nothing_is_said_against_zero(
    tmp_path: Path, fixed: tuple[float | None, ...]
) -> None:
    result, objective, _ = searched(tmp_path, quadratic((0.25, 0.25)), 2, fixed=fixed)
    assert result.weights == [0.25, 0.25]
    assert (result.search_change, result.search_score, result.gap) == (None, None, None)
    assert (0.0, 0.0) not in [w for w, *_ in objective.of(SeedBlock.SEARCH)]
    assert result.confirm_change == -0.125


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
    assert len(first) + len(second) == len(objective.calls)  # never the seeds of the evaluation
    assert {block for _, block, *_ in forwards.calls + forwards.slopes} <= {SeedBlock.SEARCH}
    assert all(at % 10 == 0 and images == 10 for *_, at, images in first)  # blocks that do not overlap
    spent = 10 * len(first) + sum(call[3] for call in forwards.calls) / STEPS
    spent += 3 * sum(call[3] for call in forwards.slopes) / STEPS
    if method == "loss":  # a point that the simplex returns to is paid for again, and logged once
        assert spent <= result.images_sampled - 20 * len(second)
    else:
        assert result.images_sampled == pytest.approx(spent + 20 * len(second))
    assert 0 < result.images_sampled - 20 * len(second) <= 200
    assert len(first) == len(set(first))
    assert result.trials >= len(first) + len(forwards.calls) + len(forwards.slopes)
    assert method == "loss" or result.trials == len(first) + len(forwards.calls) + len(forwards.slopes)


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


# The log


@pytest.mark.parametrize("score", [0.5, np.float64(0.5), torch.tensor(0.5)])
def test_a_score_of_any_kind_of_number_is_read_again(tmp_path: Path, score: Any) -> None:
    log = TrialLog(tmp_path / "trials.csv", 1)
    assert log.score(Trial("search", 0, 10, (0.1,)), lambda: score) == 0.5
    assert TrialLog(tmp_path / "trials.csv", 1).scores == log.scores


def test_a_logged_trial_is_never_run_again(tmp_path: Path) -> None:
    for method in ALL:
        first, *_ = searched(tmp_path / method, quadratic(OPTIMUM), 3, method=method, budget=120)
        again, objective, forwards = searched(tmp_path / method, quadratic(OPTIMUM), 3, method=method, budget=120)
        assert (again, objective.calls, forwards.calls) == (first, [], []), method


@pytest.mark.parametrize("method", ALL)
def test_a_killed_search_goes_on_to_the_same_result_and_the_same_bytes(tmp_path: Path, method: str) -> None:
    """The slopes of `gradient` are no trials and are asked for again; no score is."""
    params = search_params(method=method, budget=120)
    whole, calls = Counted(quadratic(OPTIMUM)), []
    expected = search(whole, whole, 3, params, TrialLog(tmp_path / "whole.csv", 3), STEPS)  # type: ignore[arg-type]
    for stop_at in (0, 4, 1, 5, None):
        part = Counted(quadratic(OPTIMUM), stop_at)
        try:
            result = search(part, part, 3, params, TrialLog(tmp_path / "trials.csv", 3), STEPS)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            assert stop_at is not None
        calls += part.calls
    assert calls == whole.calls
    assert result == expected
    assert (tmp_path / "trials.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import test_search as t
score, calls = t.quadratic(t.OPTIMUM), []
def killed(*asked):
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(asked)
    return score(*asked)
t.searched(Path(sys.argv[1]), killed, 3)
"""


def test_a_search_loses_no_trial_to_sigkill(tmp_path: Path) -> None:
    expected, whole, _ = searched(tmp_path / "whole", quadratic(OPTIMUM), 3)
    killed = python(KILLED, tmp_path / "killed", PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    assert killed.returncode == -9, killed.stderr
    result, rest, _ = searched(tmp_path / "killed", quadratic(OPTIMUM), 3)
    assert result == expected
    assert rest.calls == whole.calls[4:]


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_cut_last_line_is_run_again_and_no_other(tmp_path: Path, cut: int) -> None:
    _, whole, _ = searched(tmp_path, quadratic(OPTIMUM), 3)
    text = (tmp_path / "trials.csv").read_text()
    (tmp_path / "trials.csv").write_text(text[:-cut])
    _, objective, _ = searched(tmp_path, quadratic(OPTIMUM), 3)
    assert objective.calls == whole.calls[-1:]
    assert (tmp_path / "trials.csv").read_text() == text


@pytest.mark.parametrize(
    "text", ["", "round,ima", "round,first,images,w1,w2,score", "round,first,images,w1,w2,score\n"]
)
def test_a_log_cut_in_its_header_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials.csv").write_text(text)
    log = TrialLog(tmp_path / "trials.csv", 2)
    assert log.scores == {}
    log.score(Trial("search", 0, 10, (0.1, 1 / 3)), lambda: 2 / 3)
    assert (tmp_path / "trials.csv").read_text() == (
        "round,first,images,w1,w2,score\nsearch,0,10,0.1,0.3333333333333333,0.6666666666666666\n"
    )
    assert TrialLog(tmp_path / "trials.csv", 2).scores == log.scores


def test_a_trial_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    seen = []

    def objective(*_: Any) -> float:
        seen.append(len((tmp_path / "trials.csv").read_text().splitlines()))
        return 1.0

    searched(tmp_path, objective, 2)
    assert seen == list(range(1, len(seen) + 1))


def test_the_export_holds_the_trials_of_this_search_alone(tmp_path: Path) -> None:
    searched(tmp_path, quadratic((0.0, 0.0)), 2, values=(0.75, 1.0))
    log, score = TrialLog(tmp_path / "trials.csv", 2), Counted(quadratic((0.0, 0.0)))
    search(score, score, 2, search_params(), log, STEPS)  # type: ignore[arg-type]
    log.export(tmp_path / "out" / "trials.csv")
    searched(tmp_path / "fresh", quadratic((0.0, 0.0)), 2)
    assert (tmp_path / "out" / "trials.csv").read_text() == (tmp_path / "fresh" / "trials.csv").read_text()
    assert len(log.scores) > len(log.used)


# Whose search it is


def test_demes_search_is_that_of_the_params() -> None:
    assert KINDS["deme"](search_params(), 3) == search_params()


def test_the_nonnegative_search_by_hand() -> None:
    params = search_params(values=(-0.25, 0.0, 1.0), fixed=(None, 0.5, 0.25))
    assert KINDS["nonnegative"](params, 3) == replace(params, values=(0.0, 1.0), bounds=(0.0, 1.5))
    with pytest.raises(
        InputError, match=r"fixed = \[None, -0\.5, 0\.25\]: a weight below 0 leaves no search over w >= 0"
    ):
        KINDS["nonnegative"](replace(params, fixed=(None, -0.5, 0.25)), 3)
    assert KINDS["nonnegative"](search_params(values=(-0.5,)), 3).values == (0.0,)


@pytest.mark.parametrize("method", METHODS)
def test_the_nonnegative_search_tries_no_negative_weight(tmp_path: Path, method: str) -> None:
    params = KINDS["nonnegative"](search_params(method=method, values=(-0.5, 0.0, 0.5)), 2)
    score = Counted(quadratic((-0.5, 0.5)))
    result = search(score, score, 2, params, TrialLog(tmp_path / "trials.csv", 2), STEPS)  # type: ignore[arg-type]
    assert min(v for w, *_ in score.calls + score.slopes for v in w) >= 0
    assert result.method == method
    assert result.weights[1] > 0


@pytest.mark.parametrize(
    ("kind", "n", "images", "budget"),
    [
        ("scale", 1, 3000, 36000),  # 30,000 images on 12 scales: 2,500 each, in whole thousands
        ("scale", 4, 3000, 36000),  # the soup of 4 finetunes has one scale too
        ("greedy", 4, 4000, 36000),  # 9 soups: 3,334 each
        ("greedy", 8, 2000, 34000),
        ("greedy", 1, 10000, 30000),
    ],
)
def test_a_baselines_search_has_at_least_the_images_of_deme(kind: str, n: int, images: int, budget: int) -> None:
    params = section(read(REPOSITORY / "params.yaml"), "merge_search", SearchParams)
    params = replace(params, images=1000, fixed=(None, *(0.0,) * 3))
    baseline = KINDS[kind](params, n)
    assert baseline == replace(params, method=kind, images=images, budget=budget, fixed=None)
    assert baseline.budget >= params.budget


@pytest.mark.parametrize(("kind", "n"), [("scale", 1), ("scale", 3), ("greedy", 3)])
def test_a_baselines_trials_share_its_images(tmp_path: Path, kind: str, n: int) -> None:
    """DeMe has 300 images: 6 scales or 7 soups of 50 each."""
    score, params = Counted(quadratic((0.5,) * n)), KINDS[kind](search_params(), n)
    result = search(score, score, n, params, TrialLog(tmp_path / "trials.csv", n), STEPS)  # type: ignore[arg-type]
    assert {call[2:] for call in score.of(SeedBlock.SEARCH)} == {(0, 50)}
    assert {call[2:] for call in score.of(SeedBlock.CONFIRM)} == {(0, 20), (20, 20)}  # as DeMe's finalists
    assert result.images_sampled == sum(call[3] for call in score.calls)
    assert result.method == kind
    if kind == "scale":
        anchors = [(0.0,) * n, (1 / n,) * n]
        assert [w for w, *_ in score.of(SeedBlock.SEARCH)] == scale_points(n, params, anchors)
        assert result.weights == pytest.approx([0.5] * n)


def test_a_step_away_from_own_samples_is_searched_below_zero_and_confirmed_beside_the_whole_step(
    tmp_path: Path,
) -> None:
    """w = −1 is the anchor: (1 + w)θ − wθ_s of Neon with its w = 1."""
    score, params = Counted(quadratic((-0.7,))), KINDS["away"](search_params(away=(0.75, 1.5)), 1)
    assert params.images * 4 >= search_params().budget  # four points share DeMe's images
    result = search(score, score, 1, params, TrialLog(tmp_path / "trials.csv", 1), STEPS)  # type: ignore[arg-type]
    assert [w for w, *_ in score.of(SeedBlock.SEARCH)] == [(0.0,), (-1.0,), (-0.75,), (-1.5,)]
    assert {(0.0,), (-1.0,), (-0.75,)} <= {w for w, *_ in score.of(SeedBlock.CONFIRM)}
    assert result.weights == [-0.75]
    for wrong in ((-0.5,), (0.0,), (math.inf,)):
        with pytest.raises(InputError, match=r"merge_search\.away = .* must be finite lengths above 0"):
            search_params(away=wrong)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "none"}, "method = 'none': must be one of auto, grid, coordinate, random, halving, surrogate, "),
        ({"method": "scale"}, "method = 'scale': must be one of auto, grid, "),  # a baseline's
        (
            {"objective": "fid"},
            "objective = 'fid': must be one of frechet, kid, clip_score, a sum of them with",
        ),
        ({"fixed": (None, 0.0)}, "fixed = [None, 0.0]: needs N = 3 entries, at least one of them null (a weight to"),
        ({"fixed": (0.5, 0.0, 1.0)}, "fixed = [0.5, 0.0, 1.0]: needs N = 3 entries, at least one of them null"),
        (
            {"budget": 270},
            "budget = 270: the grid over 3 weights has 28 points of 10 images each; name fewer values, or set"
            " merge_search.budget=280",
        ),
        ({"budget": 90, "fixed": (None, None, 0.5)}, "budget = 90: the grid over 2 weights has 10 points of 10 images"),
        (
            {"method": "surrogate", "budget": 119},
            "budget = 119: the surrogate of 3 weights needs 12 trials of 10 images; set merge_search.budget=120 or"
            " more, or merge_search.method=coordinate",
        ),
        *(
            (
                {"per_block": True, "method": method},
                f"method = '{method}': too many points for the weights of every block; with per_block take one of "
                "coordinate, random, halving, cmaes, tpe, gp, loss, gradient",
            )
            for method in ("auto", "grid", "surrogate")
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_search(3, search_params(**changes))
    assert str(refused.value).startswith(f"params: merge_search.{message}")


@pytest.mark.parametrize("free", [8, 16, 32, 500])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_a_search_of_many_weights_is_checked_without_making_its_points(method: str, free: int) -> None:
    """values^N of eight weights would take 1 MB, of sixteen 5 GB."""
    params, kinds = search_params(method=method), ["scale", "greedy", "away"]
    tracemalloc.start()
    try:
        if method in ("grid", "surrogate"):
            points = {"grid": 3**free + 1, "surrogate": 1 + free * (free + 3) // 2 * 5 // 4}[method]
            with pytest.raises(InputError, match=f"set merge_search.budget={10 * points}( |$)"):
                check_search(free, params)
        else:
            check_search(free, params, kinds)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": 280}, {"budget": 100, "fixed": (None, None, 0.5)}, {"method": "surrogate", "budget": 120},
        {"method": "halving", "budget": 50},
        *({"method": method} for method in METHODS), *({"objective": objective} for objective in OBJECTIVES),
    ],
)  # fmt: skip
def test_what_fits_passes_and_is_searched(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_search(3, search_params(**changes))
    result, *_ = searched(tmp_path, quadratic((0.5, 0.25, 0.5)), 3, **changes)
    assert result.confirm_score < result.confirm_score_pretrained  # of w = 1/N, if of no other


# The score


def scores(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, weights: Weights, images: int
) -> tuple[float, float]:
    """Of the same images: the score of a trial, and what the stages merge, sample, features and evaluate give."""
    params, extractor = sampler_params(block=50, steps=5), load_extractor(str(extractor_dir))
    reference = extractor([digits])
    sampler = Sampler.of(pipeline, params, CPU)
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))
    objective = make_objective("frechet", loss, sampler, scorer := Scorer(extractor, reference))
    objective((0.5, 0.5), SeedBlock.SEARCH, 0, 50)  # the model is kept from trial to trial
    trial = objective(weights, SeedBlock.EVALUATION, 0, images)

    write_merged(pipeline, vectors, weights, Path("merged"), {})
    sample_model(Path("merged"), pipeline, params, images, Path("samples"))
    features = extractor(read_images(Path("samples"), images))
    metrics, _ = evaluate(features, features, {"train": reference}, EvaluateParams(blocks=2))

    denoise = single(load_denoiser(Path("merged/unet")), CPU)
    by_hand = sampler.images(denoise, SeedBlock.EVALUATION, 0, images)
    assert metrics["frechet_train"] == frechet(scorer)([by_hand], [])
    return trial, metrics["frechet_train"]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.25, 0.5), (1.0, -0.5)])
def test_a_trials_score_is_that_of_the_stages_merge_sample_and_evaluate(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, empty_folder: Path, weights: Weights
) -> None:
    trial, staged = scores(pipeline, vectors, extractor_dir, digits, weights, 120)
    assert trial == staged


def test_a_trials_score_is_that_of_the_stages_under_released(
    pipeline: Path, extractor_dir: Path, digits: torch.Tensor, empty_folder: Path
) -> None:
    experts = write_experts(pipeline, empty_folder / "experts", "released")
    vectors = write_vectors(pipeline, experts, empty_folder / "vectors")
    trial, staged = scores(pipeline, vectors, extractor_dir, digits, (1.0, 0.5), 600)
    assert trial == staged


@pytest.fixture
def wired(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> tuple[MergedLoss, Sampler, Scorer]:
    """What an objective is made of, with 16 images a block."""
    extractor = load_extractor(str(extractor_dir))
    sampler = Sampler.of(pipeline, sampler_params(block=16), CPU)
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))
    return loss, sampler, Scorer(extractor, extractor([digits]))


def test_a_trial_whose_images_are_not_finite_names_its_weights(wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    objective = make_objective("frechet", *wired)
    with pytest.raises(InputError, match=r"^the merge with w = \(0\.5, 1e\+36\): its prediction at step 1 of 3"):
        objective((0.5, 1e36), SeedBlock.SEARCH, 0, 16)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_depend_on_weights_and_seed_block(name: str, wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    objective = make_objective(name, *wired)
    found = [objective(w, block, 0, 16) for w in ((0.0,) * N, (0.5,) * N, (1.0, 0.0)) for block in SeedBlock]
    assert len(set(found)) == len(found)
    assert objective((0.0,) * N, SeedBlock.SEARCH, 0, 16) == found[0]


def test_an_objective_is_the_row_of_its_name(wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    loss, sampler, scorer = wired
    extractor, reference = scorer.extractor, scorer.reference
    asked = (0.5, 0.0), SeedBlock.SEARCH, 0, 16
    images = sampler.generate(single(loss.model.at((0.5, 0.0)), CPU), SeedBlock.SEARCH, 0, 16)
    features = extractor(images)
    moments = Moments.of(features)
    expected = {
        "frechet": FrechetReference(Moments.of(reference)).distance(moments),
        "kid": kernel_distance(features, reference),
        "loss": loss.value(*asked),
    }
    assert {name: make_objective(name, loss, sampler, scorer)(*asked) for name in OBJECTIVES} == expected
    both = make_objective("frechet + 0.5*kid", loss, sampler, scorer)(*asked)
    assert both == pytest.approx(expected["frechet"] + 0.5 * expected["kid"], rel=1e-12)


def test_several_extractors_see_the_images_of_one_sampling_and_share_a_geometric_mean(
    wired: tuple[MergedLoss, Sampler, Scorer], digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, sampler, alone = wired
    beside = tuple(Scorer.on(str(DEVELOPMENT / name), digits) for name in ("code", "dense"))
    asked, sampled = ((0.5, 0.0), SeedBlock.SEARCH, 0, 40), []
    each = [make_objective("frechet", loss, sampler, own)(*asked) for own in (alone, *beside)]
    generate = Sampler.generate
    monkeypatch.setattr(Sampler, "generate", lambda *args: sampled.append(args[2:5]) or generate(*args))
    beside = tuple(replace(own, extractor=replace(own.extractor, name="code")) for own in beside)  # names may be alike
    scorer = replace(alone, beside=beside)
    assert scorer.identity == [*alone.identity, *(own.extractor.sha256 for own in beside)]
    found = make_objective("frechet", loss, sampler, scorer)(*asked)
    assert found == pytest.approx(math.prod(each) ** (1 / 3), rel=1e-12)
    assert sampled == [(SeedBlock.SEARCH, 0, 40)]


@pytest.mark.parametrize("distance", [0.0, 0.1, 1 / 3, -1e-12, 3e200])
def test_of_one_extractor_the_score_is_its_distance_to_the_bit(distance: float) -> None:
    assert geometric_mean([("own", distance)]) == distance


@pytest.mark.parametrize("distance", [0.0, -1e-12, math.nan])
def test_several_distances_of_which_one_is_not_above_zero_have_no_mean(distance: float) -> None:
    with pytest.raises(InputError, match=f"^extractor broken: a trial's Fréchet distance is {distance:g}, and "):
        geometric_mean([("own", 1.0), ("broken", distance)])


def test_a_result_names_the_extractors_that_were_asked_for(tmp_path: Path) -> None:
    plain, *_ = searched(tmp_path / "plain", quadratic((0.5,)), 1)
    several, *_ = searched(tmp_path / "several", quadratic((0.5,)), 1, extractors=("a/b", "a/c"))
    assert several == replace(plain, extractors=["a/b", "a/c"])
    assert plain.extractors == []
    several.write(tmp_path / "result.json")
    assert SearchResult.read(tmp_path / "result.json") == several


def test_a_result_of_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"weights": [0.5]}')
    with pytest.raises(InputError, match=r"result\.json: 'best' is missing or unknown .* run merge_search again$"):
        SearchResult.read(tmp_path / "result.json")


def test_a_result_says_what_was_found_in_a_line() -> None:
    told = str(search_result([0.25, 0.0]))
    assert told == ("best w = (0.25, 0), frechet -25 % [-30, -20] on fresh images: taken; 8 trials, 4,000 images")
    assert "not told from 0" in str(search_result([0.0, 0.0], best=[0.25, 0.0]))


@pytest.mark.parametrize(
    ("objective", "passes"), [("frechet", True), ("frechet+clip_score", True), ("frechet+kid", False), ("loss", False)]
)
def test_only_distances_are_shared_by_several_extractors(objective: str, passes: bool) -> None:
    params = search_params(objective=objective, extractors=("a",), method="coordinate")
    if passes:
        check_search(3, params, texts=True)
        return
    with pytest.raises(InputError, match=r"extractors = \['a'\]: .* the objective is '.*'; take .*=frechet, or \[\]$"):
        check_search(3, params, texts=True)


@pytest.mark.parametrize(
    ("folders", "judges", "message"),
    [
        (["code", "dense"], "final", None),
        (["code", "../development/code"], "final", "'{}/../development/code' counts already; each stands once, and"),
        (["../../../digits-features"], "final", "'{}/../../../digits-features' counts already"),
        (["code"], "development", "'{}/code' is a judge, and no search may see what judges its result; take some of"),
        (["../final/dense"], "final", "'{}/../final/dense' is a judge"),
        (["../final/dense"], "development", "'{}/../final/dense' is a judge"),  # of the runs to come
        (["gone"], "final", "extractor '{}/gone': no"),
    ],
)
def test_no_search_sees_a_judge(folders: list[str], judges: str, message: str | None) -> None:
    group = JudgeParams(folder=str(DEVELOPMENT.parent / judges), development=str(DEVELOPMENT))
    given = [f"{DEVELOPMENT}/{folder}" for folder in folders], str(REPOSITORY / "zoo" / "digits-features"), group
    if message is None:
        check_extractors(*given)
        return
    with pytest.raises(InputError, match=re.escape(message.format(DEVELOPMENT))):
        check_extractors(*given)


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ("kid", {"kid": 1.0}), ("loss", {}), ("frechet+0.1*clip_score", {"frechet": 1.0, "clip_score": 0.1}),
        (" 2 * kid + frechet ", {"kid": 2.0, "frechet": 1.0}),
    ],
)  # fmt: skip
def test_an_objective_is_a_weighted_sum(objective: str, weights: dict[str, float]) -> None:
    assert score_weights(objective) == weights


@pytest.mark.parametrize(
    "objective",
    ["fid", "", "frechet+", "frechet+frechet", "0*kid", "-1*kid", "x*kid", "*kid", "inf*kid", "frechet-kid", "loss+kid",
     " loss", "1*loss"],
)  # fmt: skip
def test_another_objective_is_refused(objective: str) -> None:
    with pytest.raises(InputError, match="a sum of them with positive weights, as frechet"):
        score_weights(objective)


class Unread(Conditions):
    """Prompts that the denoiser does not see."""

    def of(self, indices: Iterable[int]) -> dict[str, torch.Tensor]:
        return {}


def brightness(images: torch.Tensor) -> np.ndarray:
    return images.float().mean(dim=(1, 2, 3)).numpy() / 255


def test_the_clip_score_is_that_of_each_image_and_its_own_prompt(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> None:
    extractor, asked = load_extractor(str(extractor_dir)), ((0.5, 0.0), SeedBlock.SEARCH, 6, 16)
    plain = Sampler.of(pipeline, sampler_params(block=16), CPU)
    sampler = replace(plain, conditions=Unread(["one", "two", "three"], plain.conditions.encode))
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))

    def clip(images: Iterable[torch.Tensor], texts: Sequence[str]) -> np.ndarray:
        """A score that depends on both."""
        return brightness(torch.cat(list(images))) * [len(text) for text in texts]

    scorer = Scorer(extractor, extractor([digits]), cast(ClipScore, clip))
    images = plain.images(single(loss.model.at((0.5, 0.0)), CPU), SeedBlock.SEARCH, 6, 16)
    expected = 100 - float((brightness(images) * [(3, 3, 5)[k % 3] for k in range(6, 22)]).mean())
    assert make_objective("clip_score", loss, sampler, scorer)(*asked) == pytest.approx(expected, rel=1e-12)
    both = frechet(scorer)([images], []) + 2 * expected
    assert make_objective("frechet + 2*clip_score", loss, sampler, scorer)(*asked) == pytest.approx(both, rel=1e-12)


def test_clip_is_loaded_only_where_it_is_asked_for(
    extractor_dir: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = load_extractor(str(extractor_dir))
    write_features(tmp_path / "train.safetensors", extractor([digits]), extractor)
    monkeypatch.setattr(ClipScore, "of", lambda params: SimpleNamespace(name=f"{params.model} loaded"))
    given = str(extractor_dir), tmp_path / "train.safetensors", ClipScoreParams(model="own")
    assert Scorer.of("frechet+kid", *given).identity == [extractor.sha256, None]
    assert Scorer.of("kid+clip_score", *given).identity == [extractor.sha256, "own loaded"]


def test_the_clip_score_is_refused_where_images_have_no_prompts() -> None:
    with pytest.raises(InputError, match="the CLIP score is one of images with prompts; take frechet or kid"):
        check_search(3, search_params(objective="frechet+clip_score"), texts=False)


def test_a_search_takes_no_prompts_of_a_set_that_is_not_there_or_held_out() -> None:
    params = search_params(prompts=("names", "free"))
    names = {"names": PromptParams(source="file", path="names.txt")}
    check_search(3, params, texts=True)  # the stage merge_search, which reads them itself
    check_search(3, params, texts=True, sets=names | {"free": names["names"]})
    with pytest.raises(
        InputError, match=r"merge_search\.prompts = .*: \['free'\] is no set of `prompts`; there are names$"
    ):
        check_search(3, params, texts=True, sets=names)
    held_out = {"free": PromptParams(source="heldout", path="data/images")}
    with pytest.raises(InputError, match=r"\['free'\] has captions of the held-out part, which no search may see"):
        check_search(3, params, texts=True, sets=names | held_out)
