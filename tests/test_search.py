"""The search for w: every trial is run once, w = 0 wins ties, and a score is what sampling and evaluating give."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, N, sampler_params, write_experts, write_vectors

from deme_core.checkpoints import load_denoiser
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.merging.objective import frechet_objective
from deme_core.merging.search import Trial, TrialLog, Weights, anchors, grid_candidates, method_of, search
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
def test_a_grid_beyond_the_budget_is_refused_with_its_remedy(method: str, tmp_path: Path) -> None:
    params = search_params(method=method, max_trials=80)
    message = "N = 4 weights has 81 points, max_trials is 80; name fewer values or use merge_search.method=coordinate"
    with pytest.raises(InputError, match=message):
        method_of(4, params)
    objective = Counted(quadratic((0.0,) * 4))
    with pytest.raises(InputError, match=message):
        search(objective, 4, params, TrialLog(tmp_path / "trials.csv", 4))
    assert objective.calls == []


# The optimum


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_the_optimum_of_a_quadratic_is_found(tmp_path: Path, method: str) -> None:
    result = search(quadratic(OPTIMUM), 3, search_params(method=method), TrialLog(tmp_path / "trials.csv", 3))
    assert result["weights"] == list(OPTIMUM)
    assert result["method"] == method
    assert result["search_score"] == result["confirm_score"] == 1.0
    assert result["gap"] == 0
    assert result["confirm_score_pretrained"] == 1 + 0.25 + 0.0625
    assert result["confirm_score_uniform"] == pytest.approx(1 + sum((1 / 3 - b) ** 2 for b in OPTIMUM))


@pytest.mark.parametrize("max_trials", [2, 7, 20])
def test_coordinate_descent_keeps_to_its_budget(tmp_path: Path, max_trials: int) -> None:
    objective = Counted(quadratic((0.5,) * 6))
    params = search_params(method="coordinate", max_trials=max_trials)
    result = search(objective, 6, params, TrialLog(tmp_path / "trials.csv", 6))
    first = [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH]
    assert len(first) == len(set(first)) == result["trials"] <= max_trials
    assert result["confirm_score"] <= result["confirm_score_uniform"]


def test_coordinate_descent_changes_one_weight_at_a_time_over_the_values(tmp_path: Path) -> None:
    objective = Counted(quadratic((0.5, 0.0, 0.25, 0.5, 0.0)))
    params = search_params(method="coordinate")
    result = search(objective, 5, params, TrialLog(tmp_path / "trials.csv", 5))
    assert result["weights"] == [0.5, 0.0, 0.25, 0.5, 0.0]
    first = [w for w, block, *_ in objective.calls if block is SeedBlock.SEARCH]
    assert set(anchors(5)) == set(first[:2])
    for k, weights in enumerate(first[2:], 2):
        assert any(sum(a != b for a, b in zip(weights, before, strict=True)) == 1 for before in first[:k])


def test_a_budget_below_the_two_anchors_is_refused() -> None:
    with pytest.raises(InputError, match=r"merge_search\.max_trials = 1: must be at least 2"):
        search_params(max_trials=1)


# Two rounds


def test_zero_weights_win_ties(tmp_path: Path) -> None:
    for method in ("grid", "coordinate"):
        result = search(lambda *_: 1.0, 3, search_params(method=method), TrialLog(tmp_path / method / "trials.csv", 3))
        assert result["weights"] == [0.0, 0.0, 0.0]


def test_the_second_round_decides_on_other_seeds_and_more_images(tmp_path: Path) -> None:
    lucky, good = (0.5, 0.5), (0.25, 0.25)
    table = {SeedBlock.SEARCH: {lucky: 0.1, good: 0.2}, SeedBlock.CONFIRM: {lucky: 0.9, good: 0.3}}
    objective = Counted(lambda w, block, *_: table[block].get(tuple(w), 1.0))
    result = search(objective, 2, search_params(finalists=2), TrialLog(tmp_path / "trials.csv", 2))
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
    result = search(objective, 2, params, TrialLog(tmp_path / "trials.csv", 2))
    assert tuple(result["weights"]) == expected
    assert result["best"][0] == 0.5
    assert result["best_change"] == pytest.approx(-0.3)
    assert result["best_change_low"] <= result["best_change"] <= result["best_change_high"]
    assert (result["best_change_high"] < 0) == any(expected)


# The log


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_a_killed_search_goes_on_without_running_a_trial_again(tmp_path: Path, method: str) -> None:
    params = search_params(method=method)
    whole = Counted(quadratic(OPTIMUM))
    expected = search(whole, 3, params, TrialLog(tmp_path / "whole.csv", 3))
    calls = []
    for stop_at in (0, 4, 1, 5, None):
        objective = Counted(quadratic(OPTIMUM), stop_at)
        try:
            result = search(objective, 3, params, TrialLog(tmp_path / "trials.csv", 3))
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
    search(whole, 3, search_params(), TrialLog(file, 3))
    text = file.read_text()
    file.write_text(text[:-cut])
    objective = Counted(quadratic(OPTIMUM))
    search(objective, 3, search_params(), TrialLog(file, 3))
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

    search(objective, 2, search_params(), TrialLog(tmp_path / "trials.csv", 2))
    assert seen == list(range(1, len(seen) + 1))


def test_the_export_holds_the_trials_of_this_search_alone(tmp_path: Path) -> None:
    search(quadratic((0.0, 0.0)), 2, search_params(values=(1.0, 2.0)), TrialLog(tmp_path / "trials.csv", 2))
    log = TrialLog(tmp_path / "trials.csv", 2)
    search(quadratic((0.0, 0.0)), 2, search_params(), log)
    log.export(tmp_path / "out" / "trials.csv")
    search(quadratic((0.0, 0.0)), 2, search_params(), TrialLog(tmp_path / "fresh.csv", 2))
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
    metrics = evaluate(features, features, {"train": reference}, EvaluateParams(blocks=2))

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
