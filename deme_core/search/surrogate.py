"""A quadratic in w, fitted to scores on the same images, and its lowest point within bounds."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

RIDGE = 1e-3  # of the spread of the terms: settles flat directions, where the lowest point would follow the noise


def terms(w: np.ndarray) -> np.ndarray:
    """[n, N] -> [n, N + N (N + 1) / 2]: w_i, then w_i w_j for i <= j. No constant: a change is 0 at w = 0."""
    pairs = itertools.combinations_with_replacement(range(w.shape[1]), 2)
    return np.column_stack([w, *(w[:, i] * w[:, j] for i, j in pairs)])


def count(N: int) -> int:
    """How many `terms` a quadratic in N weights has."""
    return N * (N + 3) // 2


def fit(w: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Coefficients of `terms` by ridge regression of change [n] on w [n, N].

    A change is a score minus that of w = 0 on the same images.
    """
    x = terms(w)
    scale = np.sqrt((x**2).mean(0)) + 1e-12
    x = x / scale
    return np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ change) / scale


def predict(coefficients: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The fitted change at w [n, N], [n]."""
    return terms(w) @ coefficients


def lowest(coefficients: np.ndarray, bounds: Sequence[tuple[float, float]], starts: np.ndarray) -> np.ndarray:
    """Where the quadratic is lowest within the bounds: the best of local searches (L-BFGS-B) from `starts` [n, N]."""
    found = [
        minimize(lambda w: float(predict(coefficients, w[None])[0]), start, bounds=bounds, method="L-BFGS-B")
        for start in starts
    ]
    return min(found, key=lambda result: float(result.fun)).x
