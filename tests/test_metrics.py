"""Metrics: parity with reference implementations, closed forms, and the coverage of the intervals."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.linalg

from deme_core.metrics.evaluation import EvaluateParams, Targets, check_samples, evaluate
from deme_core.metrics.frechet import FrechetReference, frechet_distance
from deme_core.metrics.intervals import Interval, jackknife_interval, paired_interval, t_interval, uncovered
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.moments import Array, Moments
from deme_core.metrics.neighbours import copy_rate


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


def correlated(rng: np.random.Generator, n: int, dimension: int, scale: float = 1.0) -> Array:
    """Features [n, dimension] with a full covariance and a mean away from 0."""
    return scale * rng.normal(size=(n, dimension)) @ rng.normal(size=(dimension, dimension)) + rng.normal(
        size=dimension
    )


def gaussian(mean: Array, covariance: Array) -> Moments:
    """Population moments; the count behind them plays no part in a distance."""
    return Moments.from_statistics(mean, covariance, n=2)


# --- moments ---


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_equal_numpy_even_far_from_the_origin(rng, offset):
    features = correlated(rng, 500, 6)
    moments = Moments.of(features + offset)
    assert moments.n == 500
    np.testing.assert_allclose(moments.mean, features.mean(axis=0) + offset, rtol=1e-12)
    # Raw sums of squares of magnitude 1e12 would leave the covariance about three digits.
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=0, atol=1e-8)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_sum_of_groups_is_the_whole_and_subtraction_takes_a_group_out(rng, offset):
    features = correlated(rng, 90, 5) + offset
    features[:30] += 4.0  # groups with different means, so that the scatter between them counts
    whole = reduce(add, [Moments.of(group) for group in (features[:30], features[30:31], features[31:])])
    assert_same_moments(whole, Moments.of(features))
    assert_same_moments(whole - Moments.of(features[:30]), Moments.of(features[30:]))
    assert_same_moments(whole - Moments.of(features[1:]), Moments.of(features[:1]))


def assert_same_moments(actual: Moments, expected: Moments) -> None:
    assert actual.n == expected.n
    np.testing.assert_allclose(actual.total, expected.total, rtol=1e-12)
    np.testing.assert_allclose(actual.outer, expected.outer, rtol=0, atol=1e-6)


def test_float32_features_are_summed_in_float64(rng):
    features = rng.normal(1000.0, 1.0, size=(4000, 3)).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(Moments.of(features).covariance, expected, rtol=1e-12)


def test_from_statistics_returns_what_went_in(rng):
    mean, covariance = rng.normal(size=4), np.cov(rng.normal(size=(4, 30)))
    moments = Moments.from_statistics(mean, covariance, n=1000)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-14)


# --- Fréchet distance ---


@pytest.fixture
def cleanfid_frechet(monkeypatch) -> Iterator[Callable[..., float]]:
    """clean-fid's own frechet_distance, which is numpy and scipy only."""
    pytest.importorskip("cleanfid")
    if "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:
        pytest.skip("this scipy dropped sqrtm(disp=...), which clean-fid calls")
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision")
    except Exception:  # missing, or built for another torch: then its import fails in many ways
        # clean-fid imports torchvision at the top, and derives from some of its classes, for features that
        # this test has no use for. Empty stand-ins let the import pass.
        blocks = dict.fromkeys(["InceptionA", "InceptionC", "InceptionE"], object)
        models = types.SimpleNamespace(inception=types.SimpleNamespace(**blocks))
        stand_in = types.ModuleType("torchvision")
        monkeypatch.setattr(stand_in, "models", models, raising=False)
        monkeypatch.setitem(sys.modules, "torchvision", stand_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # sqrtm(disp=...)
        yield importlib.import_module("cleanfid.fid").frechet_distance
    for name in set(sys.modules) - before:
        if name.startswith("cleanfid"):
            del sys.modules[name]  # so that no other test meets a clean-fid built on the stand-in


@pytest.mark.parametrize("dimension", [2, 5, 64])
def test_frechet_equals_cleanfid(rng, cleanfid_frechet, dimension):
    a = Moments.of(correlated(rng, 400, dimension))
    b = Moments.of(correlated(rng, 300, dimension, scale=0.5))
    expected = cleanfid_frechet(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dimension", [1, 5, 64])
def test_frechet_equals_the_matrix_root(rng, dimension):
    a = Moments.of(correlated(rng, 400, dimension))
    b = Moments.of(correlated(rng, 300, dimension, scale=0.5))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_with_fewer_rows_than_dimensions(rng):
    """Both covariances have rank 19 of 40.

    sqrtm of a singular product is unreliable, so the expected trace is taken from the centred rows: with
    S_a = A^T A and S_b = B^T B, the roots of the eigenvalues of S_a S_b are the singular values of A B^T.
    """
    x, y = correlated(rng, 20, 40), correlated(rng, 20, 40)
    a, b = Moments.of(x), Moments.of(y)
    factor_a, factor_b = ((rows - rows.mean(axis=0)) / np.sqrt(19) for rows in (x, y))
    trace_of_root = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    expected = np.sum((a.mean - b.mean) ** 2) + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * trace_of_root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6 * np.trace(a.covariance))


def test_frechet_of_one_singular_side_equals_the_matrix_root(rng):
    """Fewer rows than dimensions on one side only; off the singularity by a hair, sqrtm still holds."""
    thin, full = Moments.of(correlated(rng, 20, 40)), Moments.of(correlated(rng, 500, 40))
    product = thin.covariance @ full.covariance + 1e-12 * np.eye(40)
    root = scipy.linalg.sqrtm(product).real
    expected = np.sum((thin.mean - full.mean) ** 2) + np.trace(thin.covariance + full.covariance - 2 * root)
    assert frechet_distance(thin, full) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_equal_moments_is_zero(rng):
    a = Moments.of(correlated(rng, 400, 16))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10 * np.trace(a.covariance))


def test_frechet_of_a_mean_shift_is_its_square(rng):
    covariance = Moments.of(correlated(rng, 100, 3)).covariance
    a, b = gaussian(np.zeros(3), covariance), gaussian(np.array([1.0, -2.0, 2.0]), covariance)
    assert frechet_distance(a, b) == pytest.approx(9.0, rel=1e-9)


def test_frechet_of_diagonal_gaussians_is_the_distance_of_deviations():
    a = gaussian(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    b = gaussian(np.zeros(3), np.diag([9.0, 1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx((1 - 3) ** 2 + (2 - 1) ** 2 + 5**2, rel=1e-12)


def test_frechet_to_a_single_point_is_the_second_moment():
    point = gaussian(np.zeros(2), np.zeros((2, 2)))
    cloud = gaussian(np.array([3.0, 0.0]), np.diag([2.0, 5.0]))
    assert frechet_distance(point, cloud) == frechet_distance(cloud, point) == 16.0


def test_a_factored_reference_is_not_changed_by_use(rng):
    reference_moments, a, b = (Moments.of(correlated(rng, 100, 8)) for _ in range(3))
    reference = FrechetReference(reference_moments)
    first = reference.distance(a)
    assert reference.distance(b) == frechet_distance(reference_moments, b)
    assert reference.distance(a) == first


# --- kernel distance ---


def naive_kernel_distance(x: Array, y: Array) -> float:
    def mean_kernel(left: Array, right: Array, distinct: bool) -> float:
        values = [
            (np.dot(u, v) / len(u) + 1) ** 3
            for i, u in enumerate(left)
            for j, v in enumerate(right)
            if not (distinct and i == j)
        ]
        return float(np.mean(values))

    return mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 12), (7, 30)])  # 30 > 5²: by sums of powers
def test_kernel_distance_equals_the_double_loop(rng, n, m):
    x, y = rng.normal(size=(n, 5)), rng.normal(0.5, 1.0, size=(m, 5))
    assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y), rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y), rel=1e-10)


def test_kernel_distance_is_unbiased(rng):
    values = [kernel_distance(rng.normal(size=(10, 4)), rng.normal(size=(15, 4))) for _ in range(4000)]
    same = t_interval(values, confidence=0.99)
    assert same.low < 0 < same.high
    # The biased estimate would add about (E k(x, x) - E k(x, x')) (1 / n + 1 / m) = 1.6 here: far outside.
    assert same.high - same.low < 0.2


def test_kernel_distance_of_point_masses():
    zeros, ones = np.zeros((3, 4)), np.ones((2, 4))
    assert kernel_distance(zeros, ones) == pytest.approx(1 + 2**3 - 2 * 1)


# --- intervals ---


def coverage(draw: Callable[[], Interval], truth: float, repeats: int) -> float:
    intervals = [draw() for _ in range(repeats)]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def test_t_interval_by_hand():
    interval = t_interval([1.0, 2.0, 3.0])
    half_width = 4.302652729911275 / np.sqrt(3)  # t(0.975, 2) from tables, deviation 1
    assert interval.value == 2.0
    assert (interval.low, interval.high) == pytest.approx((2 - half_width, 2 + half_width), rel=1e-9)
    assert t_interval([1.0, 2.0, 3.0], confidence=0.5).high < interval.high


def test_paired_interval_ignores_what_a_block_shares():
    blocks = np.array([3.5, 5.3, 4.1, 4.8])
    gain = np.array([-0.7, -0.6, -0.8, -0.7])
    interval, expected = paired_interval(blocks + gain, blocks), t_interval(gain)
    assert interval.value == pytest.approx(-0.7)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.high < 0 < t_interval(blocks + gain).high - t_interval(blocks).low


def test_paired_interval_covers_the_difference_of_means(rng):
    def draw() -> Interval:
        luck = rng.normal(0, 1.0, size=6)  # shared through the noise
        return paired_interval(3.7 + luck + rng.normal(0, 0.1, 6), 4.4 + luck + rng.normal(0, 0.1, 6))

    assert 0.93 <= coverage(draw, truth=-0.7, repeats=1500) <= 0.97


def test_jackknife_of_a_linear_statistic_is_the_t_interval(rng):
    groups = np.split(rng.normal(size=(60, 1)), 10)
    jackknife = jackknife_interval(lambda m: float(m.mean[0]), [Moments.of(group) for group in groups])
    expected = t_interval([group.mean() for group in groups])
    assert (jackknife.value, jackknife.low, jackknife.high) == pytest.approx(
        (expected.value, expected.low, expected.high), rel=1e-9
    )


def test_jackknife_removes_a_bias_of_one_over_n(rng):
    """The plug-in variance is short by variance / n; with groups of one row the repair is exact."""
    rows = rng.normal(size=(12, 1))
    interval = jackknife_interval(lambda m: float(m.outer[0, 0] / m.n), [Moments.of(row[None]) for row in rows])
    assert interval.value == pytest.approx(rows.var(ddof=1), rel=1e-9)


class GaussianModel:
    """A Gaussian generator whose Fréchet distance to a Gaussian reference is known in closed form.

    Both covariances have the same eigenvectors, so the distance is that of the deviations along them.
    """

    def __init__(self, dimension: int = 8) -> None:
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))[0]
        reference_variances = np.linspace(0.5, 2.0, dimension)
        deviations = np.sqrt(reference_variances * np.linspace(0.7, 1.5, dimension))
        covariance = rotation @ np.diag(reference_variances) @ rotation.T
        self.reference = FrechetReference(gaussian(np.zeros(dimension), covariance))
        self.mean = np.full(dimension, 0.2)
        self.root = deviations[:, None] * rotation.T
        self.truth = np.sum(self.mean**2) + np.sum((np.sqrt(reference_variances) - deviations) ** 2)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return rng.normal(size=(n, len(self.mean))) @ self.root + self.mean

    def jackknife(self, rng: np.random.Generator, n: int) -> Interval:
        groups = [Moments.of(group) for group in np.split(self.sample(rng, n), 20)]
        return jackknife_interval(self.reference.distance, groups)

    def percentile_bootstrap(self, rng: np.random.Generator, n: int, resamples: int = 100) -> Interval:
        rows = self.sample(rng, n)
        drawn = [Moments.of(rows[rng.integers(n, size=n)]) for _ in range(resamples)]
        low, high = np.quantile([self.reference.distance(moments) for moments in drawn], [0.025, 0.975])
        return Interval(self.reference.distance(Moments.of(rows)), float(low), float(high))


def test_the_closed_form_is_the_distance_of_the_population():
    model = GaussianModel()
    population = gaussian(model.mean, model.root.T @ model.root)
    assert model.reference.distance(population) == pytest.approx(model.truth, rel=1e-10)


@pytest.mark.parametrize("n", [200, 2000])
def test_jackknife_covers_the_true_frechet_distance(rng, n):
    model = GaussianModel()
    # 95 % of 300 repeats, give or take three binomial deviations of 1.3 %.
    assert 0.91 <= coverage(lambda: model.jackknife(rng, n), model.truth, repeats=300) <= 0.99


def test_jackknife_value_is_nearly_free_of_the_bias(rng):
    model = GaussianModel()
    plain = np.mean([model.reference.distance(Moments.of(model.sample(rng, 200))) for _ in range(300)])
    corrected = np.mean([model.jackknife(rng, 200).value for _ in range(300)])
    assert plain - model.truth > 0.1
    assert abs(corrected - model.truth) < 0.03


def test_a_percentile_bootstrap_would_not_cover(rng):
    """Why the jackknife: at n = 200, where it holds, resampling the rows mostly misses the truth."""
    model = GaussianModel()
    assert coverage(lambda: model.percentile_bootstrap(rng, 200), model.truth, repeats=100) < 0.5


# --- copy rate ---


def test_jittered_copies_of_training_rows_are_all_found(rng):
    train = rng.normal(size=(60, 12))
    copies = train[rng.integers(60, size=40)]
    assert copy_rate(copies, train) == 1.0
    assert copy_rate(copies + 1e-9 * rng.normal(size=copies.shape), train) == 1.0


def test_far_away_points_are_no_copies(rng):
    train = rng.normal(size=(60, 12))
    assert copy_rate(rng.normal(size=(40, 12)) + 50.0, train) == 0.0


def test_copy_rate_by_hand():
    train = [[0.0], [1.0], [4.0], [10.0]]  # distances to the nearest other row: 1, 1, 3, 6
    copies = [[0.4], [1.9], [6.9], [7.1], [15.0]]  # 0.4 < 1, 0.9 < 1, 2.9 < 3, 2.9 < 6, 5 < 6
    others = [[2.1], [17.0], [-1.0]]  # 1.1 > 1, 7 > 6, 1 = 1
    assert copy_rate(copies + others, train) == pytest.approx(5 / 8)


def test_the_distance_is_compared_with_that_of_the_nearest_row_not_of_the_image():
    """The image at 2 is nearest to the row at 0, whose own neighbour lies 1 away."""
    assert copy_rate([[2.0]], [[0.0], [-1.0], [9.0]]) == 0.0
    assert copy_rate([[0.9]], [[0.0], [-1.0], [9.0]]) == 1.0


def test_equal_training_rows_count_as_one():
    train = [[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]
    assert copy_rate([[0.0, 1.0]], train) == 1.0  # 1 < 5, though the row has a twin at distance 0


def test_copy_rate_sees_small_distances_far_from_the_origin(rng):
    train = rng.normal(size=(30, 6))
    images = np.concatenate([train + 1e-3, train + 30.0])
    assert copy_rate(images + 1e8, train + 1e8) == copy_rate(images, train) == 0.5


def test_copy_rate_resolves_near_twins_in_training():
    """Two rows 1e-6 apart at 1000: a difference of squared norms resolves no better than 1e-5 there."""
    train = [[1000.0], [1000.0 + 1e-6], [-1000.0]]
    assert copy_rate([[1000.0 + 1e-7]], train) == 1.0
    assert copy_rate([[1000.0 - 5e-6]], train) == 0.0


def test_copy_rate_does_not_depend_on_the_chunk(rng):
    train, images = rng.normal(size=(50, 3)), rng.normal(size=(83, 3))
    whole = copy_rate(images, train, chunk_rows=1000)
    assert 0.2 < whole < 0.9
    assert {copy_rate(images, train, chunk_rows=rows) for rows in (1, 7, 50, 83)} == {whole}


def test_held_out_rows_give_the_level_without_copying(rng):
    """A fresh row of the same kind is often nearer than the neighbour: the rate to compare with is not 0."""
    train, fresh = rng.normal(size=(400, 10)), rng.normal(size=(400, 10))
    assert 0.1 < copy_rate(fresh, train) < 0.5


# --- evaluation ---

BLOCKS = EvaluateParams(blocks=3)


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
    scores = {name: evaluate(own, models["a"], references, BLOCKS)[1] for name, own in models.items()}
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


# --- refusals ---

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
