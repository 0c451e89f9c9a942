"""The quadratic that a search fits to its trials: terms, fit, prediction and lowest point, by hand and recovered."""

import numpy as np
import pytest

from deme_core.search import surrogate


def random_quadratic(N: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Slope [N] and a positive definite curvature [N, N] whose lowest point lies within [-0.5, 1.5] and off 0."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(N, N))
    curvature = half @ half.T + np.eye(N)
    return -curvature @ rng.choice([-0.4, 0.3, 0.8], N), curvature


def coefficients_of(slope: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Those of `terms` for slope·w + w·curvature·w / 2: a mixed term stands once."""
    N = len(slope)
    pairs = [curvature[i, j] / (2 if i == j else 1) for i in range(N) for j in range(i, N)]
    return np.array([*slope, *pairs])


def test_terms_by_hand() -> None:
    np.testing.assert_array_equal(surrogate.terms(np.array([[2.0], [-3.0]])), [[2, 4], [-3, 9]])
    np.testing.assert_array_equal(surrogate.terms(np.array([[2.0, 3.0]])), [[2, 3, 4, 6, 9]])
    np.testing.assert_array_equal(
        surrogate.terms(np.array([[2.0, 3.0, 5.0]])), [[2, 3, 5, 4, 6, 10, 9, 15, 25]]
    )  # w, then 11 12 13 22 23 33


@pytest.mark.parametrize("N", [0, 1, 2, 3, 7, 16])
def test_terms_are_counted_without_them(N: int) -> None:
    assert surrogate.count(N) == surrogate.terms(np.zeros((1, N))).shape[1]


def test_predictions_by_hand() -> None:
    np.testing.assert_array_equal(surrogate.predict(np.array([1.0, 2.0]), np.array([[3.0], [0.0]])), [3 + 18, 0])
    five = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(surrogate.predict(five, np.array([[2.0, 3.0]])), [2 + 6 + 12 + 24 + 45])


def test_a_fit_of_one_weight_by_hand() -> None:
    """At w = 1 and −1 the terms are orthogonal and of spread 1: the ridge shrinks each coefficient alike."""
    found = surrogate.fit(np.array([[1.0], [-1.0]]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(found, np.array([1.0, 2.0]) / (1 + surrogate.RIDGE), rtol=1e-9)


def test_a_fit_of_two_weights_by_hand() -> None:
    """On (±1, ±1) w_1, w_2 and w_1 w_2 are orthogonal, and w_1² = w_2² share what is the same everywhere."""
    w = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    change = 2 * w[:, 0] - 3 * w[:, 1] + 5 * w[:, 0] * w[:, 1] + 8
    ridge = surrogate.RIDGE
    expected = [2 / (1 + ridge), -3 / (1 + ridge), 8 / (2 + ridge), 5 / (1 + ridge), 8 / (2 + ridge)]
    np.testing.assert_allclose(surrogate.fit(w, change), expected, rtol=1e-9)


def test_the_unit_of_a_weight_does_not_matter() -> None:
    """The ridge is relative to the spread of each term: w in thousandths is fitted as well."""
    rng = np.random.default_rng(0)
    w, change = rng.uniform(-0.5, 1.5, (20, 2)), rng.normal(size=20)
    other = surrogate.predict(surrogate.fit(1000 * w, change), 1000 * w)
    np.testing.assert_allclose(other, surrogate.predict(surrogate.fit(w, change), w), rtol=1e-6)


@pytest.mark.parametrize("N", [1, 2, 3, 4])
def test_a_quadratic_is_recovered_from_enough_points(N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(N).uniform(-0.5, 1.5, (3 * surrogate.terms(np.zeros((1, N))).shape[1], N))
    for seed in range(5):
        slope, curvature = random_quadratic(N, seed)
        change = w @ slope + np.einsum("ni,ij,nj->n", w, curvature, w) / 2
        exact, lowest = coefficients_of(slope, curvature), -np.linalg.solve(curvature, slope)
        np.testing.assert_allclose(surrogate.predict(exact, w), change, rtol=1e-9, atol=1e-12)
        bounds = [(-0.5, 1.5)] * N
        with monkeypatch.context() as patch:
            patch.setattr(surrogate, "RIDGE", 1e-13)
            found = surrogate.fit(w, change)
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(surrogate.lowest(found, bounds, np.zeros((1, N))), lowest, atol=1e-4)
        at = surrogate.lowest(surrogate.fit(w, change), bounds, np.zeros((1, N)))  # the ridge costs next to nothing
        depth, found_depth = surrogate.predict(exact, np.array([lowest, at]))
        assert depth <= found_depth <= 0.98 * depth < 0


def test_fewer_points_than_terms_are_fitted_without_an_error() -> None:
    w = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    change = np.array([-1.0, 0.5, 0.25])
    found = surrogate.fit(w, change)  # 9 terms; w_3 was never moved
    np.testing.assert_allclose(surrogate.predict(found, w), change, atol=0.01)
    np.testing.assert_array_equal(found[[2, 5, 7, 8]], 0)


def test_luck_that_differs_from_block_to_block_averages_out() -> None:
    """Each block tilts the surface by b·w: over many blocks the fit nears the surface without a tilt."""
    rng = np.random.default_rng(0)
    slope, curvature = random_quadratic(2, 0)
    errors = []
    for blocks in (2, 200):
        w = rng.uniform(-0.5, 1.5, (blocks, 5, 2))
        tilt = np.einsum("kni,ki->kn", w, rng.normal(0, 0.3, (blocks, 2)))
        change = w @ slope + np.einsum("kni,ij,knj->kn", w, curvature, w) / 2 + tilt
        found = surrogate.fit(w.reshape(-1, 2), change.ravel())
        errors.append(np.abs(found - coefficients_of(slope, curvature))[:2].max())
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.1


@pytest.mark.parametrize(
    ("coefficients", "bounds", "expected"),
    [
        ([-2.0, 1.0], [(-0.5, 1.5)], [1.0]),  # w² − 2w
        ([-2.0, 1.0], [(0.0, 0.5)], [0.5]),
        ([2.0, 1.0], [(-0.5, 1.5)], [-0.5]),
        ([2.0, 1.0], [(0.0, 1.5)], [0.0]),
        ([-0.6, 0.4, 1.0, 0.0, 1.0], [(-0.5, 1.5)] * 2, [0.3, -0.2]),  # (w_1 − 0.3)² + (w_2 + 0.2)²
        ([-0.6, 0.4, 1.0, 0.0, 1.0], [(0.0, 1.5)] * 2, [0.3, 0.0]),
        ([-1.0, 0.0, 1.0, 1.0, 1.0], [(-0.5, 1.5)] * 2, [2 / 3, -1 / 3]),  # 2a + b = 1, a + 2b = 0
    ],
)
def test_the_lowest_point_by_hand(
    coefficients: list[float], bounds: list[tuple[float, float]], expected: list[float]
) -> None:
    found = surrogate.lowest(np.array(coefficients), bounds, np.zeros((1, len(expected))))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(low <= w <= high for w, (low, high) in zip(found, bounds, strict=True))


def test_of_several_valleys_the_lowest_that_a_start_leads_to_is_taken() -> None:
    """−w² − 0.1 w falls to both ends of [−0.5, 1.5]; 1.5 is the lower one."""
    dome = np.array([-0.1, -1.0])
    for starts, expected in (([-0.3], -0.5), ([0.5], 1.5), ([-0.3, 0.5], 1.5), ([0.5, -0.3], 1.5)):
        found = surrogate.lowest(dome, [(-0.5, 1.5)], np.array(starts)[:, None])
        np.testing.assert_allclose(found, [expected], atol=1e-6)
