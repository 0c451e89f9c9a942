"""Metrics: parity with reference implementations, closed forms, and the coverage of the intervals."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from random_features import GaussianModel, coverage, gaussian

from deme_core.metrics.evaluation import EvaluateParams, Targets, check_samples, evaluate
from deme_core.metrics.frechet import FrechetReference, frechet_distance
from deme_core.metrics.intervals import jackknife_interval, paired_interval, t_interval, uncovered
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.moments import Array, Moments
from deme_core.metrics.neighbours import copy_rate

# Fréchet distance


BLOCKS = EvaluateParams(blocks=3)


# Evaluation


@pytest.fixture
def references(rng: np.random.Generator) -> dict[str, Array]:
    return {"train": rng.normal(size=(200, 4)), "heldout": rng.normal(size=(50, 4)) + 0.1}


@pytest.fixture
def models(rng: np.random.Generator) -> dict[str, Array]:
    """Features of three models on the same noise: 60 images, 20 a block."""
    noise = rng.normal(size=(60, 4))
    return {name: noise * scale + 0.05 * rng.normal(size=(60, 4)) for name, scale in {"a": 1, "b": 1.2, "c": 2}.items()}


def test_block_scores_are_the_distances_of_each_block(references, models):
    scores = Targets(references).scores(models["a"], 3)
    assert sorted(scores) == ["frechet_heldout", "frechet_train", "kid_heldout", "kid_train"]
    for part, real in references.items():
        blocks = [models["a"][start : start + 20] for start in (0, 20, 40)]
        expected = [frechet_distance(Moments.of(real), Moments.of(block)) for block in blocks]
        assert scores[f"frechet_{part}"] == pytest.approx(expected, rel=1e-9)
        assert scores[f"kid_{part}"] == [kernel_distance(block, real) for block in blocks]


def test_the_block_scores_of_two_models_give_the_change_between_them(references, models):
    """In any direction and for any pair: against the base `evaluate` says so itself, against others the report does."""
    scores = {name: evaluate(features, models["a"], references, BLOCKS)[1] for name, features in models.items()}
    for ours, theirs in (("b", "a"), ("c", "a"), ("c", "b"), ("b", "c"), ("a", "a")):
        metrics, _ = evaluate(models[ours], models[theirs], references, BLOCKS)
        for name in scores[ours]:
            change = paired_interval(scores[ours][name], scores[theirs][name])
            found = (metrics[f"{name}_change"], metrics[f"{name}_change_low"], metrics[f"{name}_change_high"])
            assert found == (change.value, change.low, change.high)
    assert metrics["frechet_train_change"] == metrics["kid_heldout_change_high"] == 0
    assert evaluate(models["c"], models["a"], references, BLOCKS)[0]["frechet_train_change_low"] > 0


def test_the_scores_of_a_model_do_not_depend_on_its_baseline(references, models):
    one, other = (evaluate(models["b"], models[name], references, BLOCKS)[1] for name in "ac")
    assert one == other == Targets(references).scores(models["b"], 3)
    assert {len(values) for values in one.values()} == {3}


def test_the_kernel_distance_is_the_mean_of_its_block_scores(references, models):
    metrics, scores = evaluate(models["b"], models["a"], references, BLOCKS)
    for part in references:
        interval = t_interval(scores[f"kid_{part}"])
        found = tuple(metrics[f"kid_{part}{end}"] for end in ("", "_low", "_high"))
        assert found == (interval.value, interval.low, interval.high)
        whole = frechet_distance(Moments.of(references[part]), Moments.of(models["b"]))
        assert metrics[f"frechet_{part}"] == pytest.approx(whole, rel=1e-9)


def test_without_a_held_out_part_there_is_neither_its_score_nor_its_metric(references, models):
    metrics, scores = evaluate(models["b"], models["a"], {"train": references["train"]}, BLOCKS)
    assert sorted(scores) == ["frechet_train", "kid_train"]
    assert not [name for name in metrics if "heldout" in name or "real" in name]


@pytest.mark.parametrize(("features", "covered"), [(15, True), (16, False), (30, False), (60, False)])
def test_below_four_images_a_feature_there_is_no_corrected_value(rng, features, covered):
    rows = {name: rng.normal(size=(60, features)) for name in ("ours", "theirs", "train")}
    statistics = Moments.of(rng.normal(size=(200, features)))
    metrics, _ = evaluate(rows["ours"], rows["theirs"], {"train": rows["train"]}, BLOCKS, statistics)
    for part in ("train", "statistics"):
        jackknife = [metrics[f"frechet_{part}_{end}"] for end in ("corrected", "low", "high")]
        assert (None in jackknife, jackknife.count(None)) == ((False, 0) if covered else (True, 3))
    for key in ("frechet_train", "frechet_train_change", "frechet_train_change_low", "kid_train_low", "precision"):
        assert np.isfinite(metrics[key])
    assert metrics.get("feature_count") == (None if covered else features)
    assert (uncovered(60, features, 3) is None) == covered
    json.loads(json.dumps(metrics, allow_nan=False))


def test_the_sentence_names_images_features_and_a_number_of_images_that_is_enough():
    note = uncovered(5000, 2048, 6)
    assert "5,000 images are fewer than 4 for each of 2,048 features" in note
    assert note.endswith("set sample.images to 8,220 or more.")
    check_samples(8220, 6)
    assert uncovered(8220, 2048, 6) is None and 8220 - 60 < 4 * 2048


def test_an_interval_of_too_few_rows_does_not_cover(rng):
    """Why there is none: near n = D the jackknife misses, from n = 4 D on it covers."""
    model = GaussianModel(dimension=64)
    assert uncovered(80, 64, 4) is not None and uncovered(260, 64, 4) is None
    assert coverage(lambda: model.jackknife(rng, 80), model.truth, repeats=50) < 0.2
    assert coverage(lambda: model.jackknife(rng, 260), model.truth, repeats=100) > 0.85


# Refusals


PAIR = np.array([[0.0, 1.0], [2.0, 5.0]])

WITH_NAN = np.array([[0.0, 1.0], [np.nan, 5.0]])

WIDE = np.ones((2, 3))

TWO = Moments.of(PAIR)

THREE = Moments.of(np.eye(3))

NEGATIVE = np.diag([1.0, -1.0])

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "features of one axis": (lambda: Moments.of([1.0, 2.0]), r"features has shape \(2,\)"),
    "no features": (lambda: Moments.of(np.empty((0, 3))), r"features has shape \(0, 3\)"),
    "NaN in features": (lambda: Moments.of(WITH_NAN), "in 1 of 2 rows.*look at row 1 first"),
    "infinity in features": (lambda: Moments.of(np.full((2, 2), np.inf)), "in 2 of 2 rows"),
    "no rows": (lambda: Moments(0, np.zeros(2), np.zeros((2, 2))), "n = 0 rows"),
    "shapes that disagree": (lambda: Moments(2, np.zeros(3), np.zeros((2, 2))), r"total has shape \(3,\)"),
    "NaN in a file": (
        lambda: Moments.from_statistics([0.0, float("nan")], np.eye(2), 9),
        "hold NaN or infinity",
    ),
    "one row behind a covariance": (lambda: Moments.from_statistics([0, 0], np.eye(2), 1), "n must be >= 2"),
    "asymmetric": (lambda: Moments.from_statistics([0, 0], [[1.0, 0.5], [0.0, 1.0]], 9), "must be symmetric"),
    "covariance of one row": (lambda: Moments.of(PAIR[:1]).covariance, "n must be >= 2"),
    "sum of two dimensions": (lambda: TWO + THREE, "dimension 2 and 3"),
    "difference of two dimensions": (lambda: THREE - Moments.of(PAIR[:1]), "dimension 3 and 2"),
    "nothing left": (lambda: TWO - TWO, "cannot leave 2 rows out of 2"),
    "distance of two dimensions": (
        lambda: frechet_distance(TWO, THREE),
        "dimension 3 against a reference of 2",
    ),
    "distance of one row": (lambda: frechet_distance(TWO, Moments.of(PAIR[:1])), "n must be >= 2"),
    "reference of one row": (lambda: FrechetReference(Moments.of(PAIR[:1])), "n must be >= 2"),
    "negative reference": (
        lambda: FrechetReference(gaussian(np.zeros(2), NEGATIVE)),
        "the reference's covar",
    ),
    "negative candidate": (
        lambda: frechet_distance(gaussian(np.zeros(2), np.eye(2)), gaussian(np.zeros(2), NEGATIVE)),
        "the product of the covariances has the eigenvalue -1",
    ),
    "kernel of two dimensions": (lambda: kernel_distance(PAIR, WIDE), "x has dimension 2 and y 3"),
    "kernel of one row": (lambda: kernel_distance(PAIR, PAIR[:1]), "y has 1 row; at least 2"),
    "kernel of NaN": (lambda: kernel_distance(PAIR, WITH_NAN), "y holds NaN"),
    "one block": (lambda: t_interval([1.0]), r"values has shape \(1,\)"),
    "blocks of two axes": (lambda: t_interval(PAIR), r"values has shape \(2, 2\)"),
    "NaN block": (lambda: t_interval([1.0, np.nan]), "values holds nan.*entry 1"),
    "confidence in percent": (lambda: t_interval([1.0, 2.0], confidence=95), "confidence = 95"),
    "unpaired blocks": (lambda: paired_interval([1, 2, 3], [1, 2]), "3 candidate blocks against 2 baseline"),
    "NaN baseline": (lambda: paired_interval([1, 2], [1, np.nan]), "baseline_blocks holds nan"),
    "one group": (lambda: jackknife_interval(lambda m: 0.0, [TWO]), "1 groups"),
    "unequal groups": (lambda: jackknife_interval(lambda m: 0.0, [TWO, TWO, TWO + TWO]), "groups of 2 to 4"),
    "NaN statistic": (lambda: jackknife_interval(lambda m: np.nan, [TWO, TWO]), "statistic.*holds nan"),
    "copies of two dimensions": (lambda: copy_rate(PAIR, WIDE), "images have dimension 2 and train 3"),
    "copies of one distinct row": (lambda: copy_rate(WIDE, WIDE), "1 distinct row"),
    "copies of NaN": (lambda: copy_rate(WITH_NAN, PAIR), "images holds NaN"),
    "no chunk": (lambda: copy_rate(PAIR, PAIR, chunk_rows=0), "chunk_rows = 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_a_remedy(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    assert ": " in str(refusal.value)  # what follows is the remedy
