"""Whose search it is, and what is refused before time is spent."""

import math
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from searching import OBJECTIVES, STEPS, Counted, quadratic, search_params, searched

from deme_core.errors import InputError
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import read, section
from deme_core.search.check import check_extractors, check_search
from deme_core.search.kinds import KINDS
from deme_core.search.methods import METHODS, scale_points
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.trials import TrialLog
from deme_core.seeds import SeedBlock

DEVELOPMENT = REPOSITORY / "zoo" / "judges" / "digits" / "development"
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
    log = TrialLog(tmp_path / "trials.csv", 2)
    result = search(score, score, 2, params, log, STEPS, slope=score.gradient)  # type: ignore[arg-type]
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


def test_the_extractor_of_the_search_is_no_judge_either() -> None:
    group = JudgeParams(folder=str(DEVELOPMENT.parent / "final"), development=str(DEVELOPMENT))
    with pytest.raises(InputError, match=r"params: reference\.extractor: '.*/final/code' is a judge, and no search"):
        check_extractors([], str(DEVELOPMENT.parent / "final" / "code"), group)
    check_extractors([], str(DEVELOPMENT / "code"), group)
