"""The kernel distance."""

from __future__ import annotations

import numpy as np
import pytest

from deme_core.metrics.intervals import t_interval
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.moments import Array


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
