"""Moments and the Fréchet distance, against clean-fid and closed forms."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.linalg
from random_features import gaussian

from deme_core.metrics.frechet import FrechetReference, frechet_distance
from deme_core.metrics.moments import Array, Moments

# Moments


def correlated(rng: np.random.Generator, n: int, dimension: int, scale: float = 1.0) -> Array:
    """Features [n, dimension] with a full covariance and a mean away from 0."""
    return scale * rng.normal(size=(n, dimension)) @ rng.normal(size=(dimension, dimension)) + rng.normal(
        size=dimension
    )


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


# Fréchet distance


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
