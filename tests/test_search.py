"""The search for w: every trial is run once, w = 0 wins ties, and a score is what sampling and evaluating give."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, N, sampler_params, write_experts, write_vectors

from deme_core.checkpoints import load_denoiser
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.merging.objective import frechet_objective
from deme_core.merging.search import (
    METHODS,
    Trial,
    TrialLog,
    Weights,
    anchors,
    grid_candidates,
    method_of,
    points_of,
    rival_params,
    scale_candidates,
    search,
)
from deme_core.merging.settings import SearchParams
from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.params import read, section
from deme_core.sampling.archive import read_images
from deme_core.sampling.generate import Sampler, single
from deme_core.sampling.sample import sample_model
from deme_core.seeds import SeedBlock

CPU = torch.device("cpu")
OPTIMUM = (0.0, 0.5, 0.25)


def search_params(**changes: Any) -> SearchParams:
    params = {
        "method": "auto",
        "values": (0.0, 0.25, 0.5),
        "scales": (0.25, 0.5, 0.75, 1.5),
        "max_trials": 100,
        "images": 10,
        "finalists": 3,
        "final_images": 40,
        "final_blocks": 2,
    }
    return SearchParams(**params | changes)


def quadratic(optimum: Sequence[float]) -> Callable[..., float]:
    """Lowest at the optimum, in both rounds."""
    return lambda w, block, first, images: 1.0 + sum((a - b) ** 2 for a, b in zip(w, optimum, strict=True))


class Counted:
    """An objective that records its calls, and may stop at one of them as a killed search does."""

    def __init__(self, score: Callable[..., float], stop_at: int | None = None) -> None:
        self.score, self.stop_at = score, stop_at
        self.calls: list[tuple[tuple[float, ...], SeedBlock, int, int]] = []

    def __call__(self, weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((tuple(weights), block, first, images))
        return self.score(weights, block, first, images)


# Candidates


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_grid_is_the_product_and_the_anchors(n: int) -> None:
    candidates = grid_candidates(n, search_params())
    assert set(candidates) == set(itertools.product((0.0, 0.25, 0.5), repeat=n)) | {(0.0,) * n, (1 / n,) * n}
    assert len(candidates) == len(set(candidates))


def test_the_default_grid_fits_its_budget() -> None:
    assert len(grid_candidates(4, search_params())) == 81  # 1/4 is one of its values
    params = read(REPOSITORY / "params.yaml")
    assert method_of(params["N"], section(params, "merge_search", SearchParams)) == "grid"


@pytest.mark.parametrize(("n", "method"), [(1, "grid"), (4, "grid"), (5, "coordinate"), (8, "coordinate")])
def test_auto_is_the_grid_up_to_4_weights_and_coordinate_descent_beyond(n: int, method: str) -> None:
    assert method_of(n, search_params()) == method
    assert method_of(n, search_params(method="coordinate")) == "coordinate"


@pytest.mark.parametrize("method", ["auto", "grid"])
def test_a_grid_beyond_the_budget_is_refused_with_its_remedy(method: str) -> None:
    params = search_params(method=method, max_trials=80)
    message = "N = 4 weights has 81 points, max_trials is 80; name fewer values or use merge_search.method=coordinate"
    with pytest.raises(InputError, match=message):
        method_of(4, params)
    for rival in ("scale", "greedy"):  # its budget is that of DeMe's search
        with pytest.raises(InputError, match=message):
            rival_params(rival, 1, params, 4)


# The optimum


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_the_optimum_of_a_quadratic_is_found(tmp_path: Path, method: str) -> None:
    result = search(quadratic(OPTIMUM), 3, search_params(), TrialLog(tmp_path / "trials.csv", 3), method)
    assert result["weights"] == list(OPTIMUM)
    assert result["method"] == method
    assert result["search_score"] == result["confirm_score"] == 1.0
    assert result["gap"] == 0
    assert result["confirm_score_pretrained"] == 1 + 0.25 + 0.0625
    assert result["confirm_score_uniform"] == pytest.approx(1 + sum((1 / 3 - b) ** 2 for b in OPTIMUM))


@pytest.mark.parametrize("max_trials", [2, 7, 20])
def test_coordinate_descent_keeps_to_its_budget(tmp_path: Path, max_trials: int) -> None:
    objective = Counted(quadratic((0.5,) * 6))
    params = search_params(max_trials=max_trials)
    result = search(objective, 6, params, TrialLog(tmp_path / "trials.csv", 6), "coordinate")
    first = [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH]
    assert len(first) == len(set(first)) == result["trials"] <= max_trials
    assert result["confirm_score"] <= result["confirm_score_uniform"]


def test_coordinate_descent_changes_one_weight_at_a_time_over_the_values(tmp_path: Path) -> None:
    objective = Counted(quadratic((0.5, 0.0, 0.25, 0.5, 0.0)))
    result = search(objective, 5, search_params(), TrialLog(tmp_path / "trials.csv", 5), "coordinate")
    assert result["weights"] == [0.5, 0.0, 0.25, 0.5, 0.0]
    first = [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH]
    assert set(anchors(5)) == set(first[:2])
    for k, weights in enumerate(first[2:], 2):
        assert any(sum(a != b for a, b in zip(weights, before, strict=True)) == 1 for before in first[:k])


def test_a_budget_below_the_two_anchors_is_refused() -> None:
    with pytest.raises(InputError, match=r"merge_search\.max_trials = 1: must be at least 2"):
        search_params(max_trials=1)


# The rivals' searches


@pytest.mark.parametrize("n", [1, 2, 4])
def test_scales_are_those_of_the_mean_of_the_vectors(n: int) -> None:
    candidates = scale_candidates(n, search_params())
    assert candidates[:2] == anchors(n)  # scales 0 and 1
    assert candidates[2:] == [(scale / n,) * n for scale in (0.25, 0.5, 0.75, 1.5)]
    assert scale_candidates(n, search_params(scales=(1.0, 0.0, 0.5, 0.5))) == [*anchors(n), (0.5 / n,) * n]
    assert scale_candidates(n, search_params(scales=())) == anchors(n)


@pytest.mark.parametrize(("n", "best"), [(1, 0.75), (2, 0.375), (3, 0.25)])
def test_the_best_scale_is_found(tmp_path: Path, n: int, best: float) -> None:
    objective = Counted(quadratic((best,) * n))
    result = search(objective, n, search_params(), TrialLog(tmp_path / "trials.csv", n), "scale")
    assert result["weights"] == [best] * n
    assert (result["method"], result["trials"]) == ("scale", 6)
    assert [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH] == scale_candidates(n, search_params())


ALONE = {(1.0, 0.0, 0.0): 5.0, (0.0, 1.0, 0.0): 3.0, (0.0, 0.0, 1.0): 4.0}  # 2 is the best, then 3, then 1
THIRDS = (1 / 3,) * 3


@pytest.mark.parametrize(
    ("averages", "tried", "best"),
    [
        # 3 joins 2; then 1 joins neither.
        ({(0.0, 0.5, 0.5): 2.5}, [(0.0, 0.5, 0.5)], [0.0, 0.5, 0.5]),
        # 3 does not join; then 1 joins 2 alone.
        ({(0.0, 0.5, 0.5): 3.5, (0.5, 0.5, 0.0): 2.0}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], [0.5, 0.5, 0.0]),
        # As good is not better: 3 does not join.
        ({(0.0, 0.5, 0.5): 3.0, (0.5, 0.5, 0.0): 2.9}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], [0.5, 0.5, 0.0]),
        # None joins.
        ({(0.0, 0.5, 0.5): 9.0, (0.5, 0.5, 0.0): 9.0}, [(0.0, 0.5, 0.5), (0.5, 0.5, 0.0)], [0.0, 1.0, 0.0]),
        # All join: the whole soup is the uniform merge, which was tried first.
        ({(0.0, 0.5, 0.5): 2.5, THIRDS: 2.0}, [(0.0, 0.5, 0.5)], list(THIRDS)),
    ],
)
def test_the_greedy_soup_by_hand(
    tmp_path: Path, averages: dict[Weights, float], tried: list[Weights], best: list[float]
) -> None:
    table = {(0.0,) * 3: 6.0, THIRDS: 8.0} | ALONE | averages
    objective = Counted(lambda w, *_: table[tuple(w)])
    result = search(objective, 3, search_params(), TrialLog(tmp_path / "trials.csv", 3), "greedy")
    first = [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH]
    assert first == [*anchors(3), *ALONE, *tried]
    assert result["weights"] == best
    assert (result["method"], result["trials"]) == ("greedy", len(first))
    assert result["trials"] <= points_of("greedy", 3, search_params()) == 7


@pytest.mark.parametrize(("n", "trials"), [(1, 2), (2, 4), (4, 9)])
def test_a_soup_that_nothing_joins_makes_the_most_trials(tmp_path: Path, n: int, trials: int) -> None:
    """The best alone, each other beside it, and the anchors; for n <= 2 some of these are the same."""
    score = quadratic([1.0] + [0.0] * (n - 1))
    result = search(score, n, search_params(), TrialLog(tmp_path / "trials.csv", n), "greedy")
    assert result["weights"] == [1.0] + [0.0] * (n - 1)
    assert result["trials"] == trials <= points_of("greedy", n, search_params())


def test_points_by_hand() -> None:
    params = search_params(max_trials=50)
    assert points_of("grid", 2, params) == 9  # {0, 0.25, 0.5}², which holds the anchors
    assert points_of("grid", 3, params) == 28  # {0, 0.25, 0.5}³ and 1/3
    assert points_of("coordinate", 8, params) == 50
    assert points_of("scale", 1, params) == points_of("scale", 4, params) == 6
    assert points_of("greedy", 4, params) == 9


@pytest.mark.parametrize(
    ("method", "n", "deme_n", "images"),
    [
        ("scale", 1, 4, 8000),  # DeMe: 82 points of 1,000 images; 11 scales: 7,455 each, in whole thousands
        ("scale", 4, 4, 8000),  # the soup of 4 finetunes has one scale too
        ("greedy", 4, 4, 10000),  # 9 points of 9,112
        ("scale", 1, 8, 8000),  # DeMe: coordinate descent, 82 trials
        ("greedy", 8, 8, 5000),  # 17 points of 4,824
        ("scale", 1, 1, 1000),  # DeMe: 3 points; no trial has fewer images than DeMe's
    ],
)
def test_a_rivals_search_has_the_images_of_deme(method: str, n: int, deme_n: int, images: int) -> None:
    params = section(read(REPOSITORY / "params.yaml"), "merge_search", SearchParams)
    rival = rival_params(method, n, params, deme_n)
    assert rival == replace(params, images=images)
    if deme_n > 1:
        budget = points_of(method_of(deme_n, params), deme_n, params) * params.images
        points = points_of(method, n, rival)
        assert budget <= points * rival.images < budget + points * params.images


@pytest.mark.parametrize(("method", "n"), [("scale", 1), ("scale", 3), ("greedy", 3)])
def test_a_rivals_trials_share_the_images_of_deme(tmp_path: Path, method: str, n: int) -> None:
    """DeMe with N = 3: 28 points of 10 images; 6 scales or 7 soups: 47 or 40 each, in whole tens."""
    objective = Counted(quadratic((0.5,) * n))
    rival = rival_params(method, n, search_params(), 3)
    result = search(objective, n, rival, TrialLog(tmp_path / "trials.csv", n), method)
    first = [call for call in objective.calls if call[1] is SeedBlock.SEARCH]
    assert {call[2:] for call in first} == {(0, 50 if method == "scale" else 40)}
    second = [call for call in objective.calls if call[1] is SeedBlock.CONFIRM]
    assert {call[2:] for call in second} == {(0, 20), (20, 20)}  # as DeMe's finalists
    assert result["images_sampled"] == sum(call[3] for call in objective.calls)


# Two rounds


def test_zero_weights_win_ties(tmp_path: Path) -> None:
    for method in METHODS:
        result = search(lambda *_: 1.0, 3, search_params(), TrialLog(tmp_path / method / "trials.csv", 3), method)
        assert result["weights"] == [0.0, 0.0, 0.0]
        assert result["method"] == method


def test_the_second_round_decides_on_other_seeds_and_more_images(tmp_path: Path) -> None:
    lucky, good = (0.5, 0.5), (0.25, 0.25)
    table = {SeedBlock.SEARCH: {lucky: 0.1, good: 0.2}, SeedBlock.CONFIRM: {lucky: 0.9, good: 0.3}}
    objective = Counted(lambda w, block, *_: table[block].get(tuple(w), 1.0))
    result = search(objective, 2, search_params(finalists=2), TrialLog(tmp_path / "trials.csv", 2), "grid")
    assert result["weights"] == [0.25, 0.25]
    assert (result["search_score"], result["confirm_score"]) == (0.2, 0.3)
    assert result["gap"] == pytest.approx(0.1)
    first = [call for call in objective.calls if call[1] is SeedBlock.SEARCH]
    second = [call for call in objective.calls if call[1] is SeedBlock.CONFIRM]
    assert {images for *_, images in first} == {10}
    assert {call[2:] for call in second} == {(0, 20), (20, 20)}  # the seed blocks
    assert {w for w, *_ in second} == {(0.0, 0.0), (0.5, 0.5), (0.25, 0.25)}  # anchors and nominated
    assert result["images_sampled"] == len(first) * 10 + len(second) * 20
    assert SeedBlock.EVALUATION not in {block for _, block, *_ in objective.calls}


@pytest.mark.parametrize(("noise", "expected"), [(0.0, (0.5, 0.5)), (0.05, (0.5, 0.5)), (0.5, (0.0, 0.0))])
def test_the_best_is_taken_only_where_it_beats_zero_beyond_the_noise(
    tmp_path: Path, noise: float, expected: Weights
) -> None:
    """The change is −0.3 on the mean; the noise of a block is `noise` up or down for all w but zero."""

    def objective(w: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        return 1.0 if not any(w) else 1.0 - 0.6 * w[0] + noise * (-1) ** (first // 20)

    params = search_params(values=(0.0, 0.5), final_images=80, final_blocks=4)
    result = search(objective, 2, params, TrialLog(tmp_path / "trials.csv", 2), "grid")
    assert tuple(result["weights"]) == expected
    assert result["best"][0] == 0.5
    assert result["best_change"] == pytest.approx(-0.3)
    assert result["best_change_low"] <= result["best_change"] <= result["best_change_high"]
    assert (result["best_change_high"] < 0) == any(expected)


# The log


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_search_goes_on_without_running_a_trial_again(tmp_path: Path, method: str) -> None:
    params = search_params()
    whole = Counted(quadratic(OPTIMUM))
    expected = search(whole, 3, params, TrialLog(tmp_path / "whole.csv", 3), method)
    calls = []
    for stop_at in (0, 4, 1, 5, None):
        objective = Counted(quadratic(OPTIMUM), stop_at)
        try:
            result = search(objective, 3, params, TrialLog(tmp_path / "trials.csv", 3), method)
        except KeyboardInterrupt:
            assert stop_at is not None
        calls += objective.calls
    assert calls == whole.calls
    assert result == expected
    assert (tmp_path / "trials.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_cut_last_line_is_run_again_and_no_other(tmp_path: Path, cut: int) -> None:
    whole = Counted(quadratic(OPTIMUM))
    file = tmp_path / "trials.csv"
    search(whole, 3, search_params(), TrialLog(file, 3), "grid")
    text = file.read_text()
    file.write_text(text[:-cut])
    objective = Counted(quadratic(OPTIMUM))
    search(objective, 3, search_params(), TrialLog(file, 3), "grid")
    assert objective.calls == whole.calls[-1:]
    assert file.read_text() == text


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

    search(objective, 2, search_params(), TrialLog(tmp_path / "trials.csv", 2), "grid")
    assert seen == list(range(1, len(seen) + 1))


def test_the_export_holds_the_trials_of_this_search_alone(tmp_path: Path) -> None:
    search(quadratic((0.0, 0.0)), 2, search_params(values=(1.0, 2.0)), TrialLog(tmp_path / "trials.csv", 2), "grid")
    log = TrialLog(tmp_path / "trials.csv", 2)
    search(quadratic((0.0, 0.0)), 2, search_params(), log, "grid")
    log.export(tmp_path / "out" / "trials.csv")
    search(quadratic((0.0, 0.0)), 2, search_params(), TrialLog(tmp_path / "fresh.csv", 2), "grid")
    header, *rows = (tmp_path / "out" / "trials.csv").read_text().splitlines()
    expected_header, *expected_rows = (tmp_path / "fresh.csv").read_text().splitlines()
    assert header == expected_header
    assert sorted(rows) == sorted(expected_rows)
    assert len(log.scores) > len(rows)


# The score


def scores(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, weights: Weights, images: int
) -> tuple[float, float]:
    """Of the same images: the score of a trial, and what the stages merge, sample, features and evaluate give."""
    params, extractor = sampler_params(block=50, steps=5), load_extractor(str(extractor_dir))
    reference = extractor([digits])
    sampler = Sampler.of(pipeline, params, CPU)
    objective = frechet_objective(pipeline, vectors, sampler, extractor, Moments.of(reference))
    objective((0.5, 0.5), SeedBlock.SEARCH, 0, 50)  # the model is kept from trial to trial
    trial = objective(weights, SeedBlock.EVALUATION, 0, images)

    write_merged(pipeline, vectors, weights, Path("merged"), {})
    sample_model(Path("merged"), pipeline, params, images, Path("samples"))
    features = extractor(read_images(Path("samples"), images))
    metrics, _ = evaluate(features, features, {"train": reference}, EvaluateParams(blocks=2))

    denoise = single(load_denoiser(Path("merged/unet")), CPU)
    by_hand = extractor([sampler.images(denoise, SeedBlock.EVALUATION, 0, images)])
    assert metrics["frechet_train"] == FrechetReference(Moments.of(reference)).distance(Moments.of(by_hand))
    return trial, metrics["frechet_train"]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.25, 0.5), (1.0, 0.0)])
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


def test_scores_depend_on_weights_and_seed_block(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> None:
    extractor = load_extractor(str(extractor_dir))
    sampler = Sampler.of(pipeline, sampler_params(block=16), CPU)
    objective = frechet_objective(pipeline, vectors, sampler, extractor, Moments.of(extractor([digits])))
    found = [objective(w, block, 0, 16) for w in ((0.0,) * N, (0.5,) * N, (1.0, 0.0)) for block in SeedBlock]
    assert len(set(found)) == len(found)
    assert objective((0.0,) * N, SeedBlock.SEARCH, 0, 16) == found[0]
