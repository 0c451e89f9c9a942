"""Intervals cover what they say."""

from __future__ import annotations

import numpy as np
import pytest
from random_features import GaussianModel, coverage, gaussian

from deme_core.metrics.intervals import Interval, jackknife_interval, paired_interval, t_interval
from deme_core.metrics.moments import Moments


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
