"""The plane of two task vectors: it contains its points, its axes are orthonormal; slopes and lowest points on it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deme_core.analysis.landscape import ALL, LOSS, LOWEST, SLOPE, _rows
from deme_core.analysis.plane import Plane
from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.errors import InputError
from deme_core.search.objective import MergedModel
from deme_core.tensors import read_tensors


def flat(state_dict: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([state_dict[key].double().flatten() for key in sorted(state_dict)]).numpy()


@pytest.fixture
def taus(vectors: list[Path]) -> np.ndarray:
    return np.stack([flat(read_tensors(file)) for file in vectors])


def test_the_plane_contains_its_points_and_its_axes_are_orthonormal(
    pipeline: Path, experts: list[Path], vectors: list[Path], taus: np.ndarray
) -> None:
    gram = taus @ taus.T
    plane, merged = Plane.of(gram), MergedModel(pipeline, vectors)
    theta = flat(load_denoiser(denoiser_dir(pipeline)).state_dict())

    def at(x: float, y: float) -> np.ndarray:
        return flat(merged.load(plane.weights(x, y)).state_dict())

    assert np.array_equal(at(0.0, 0.0), theta)
    for k, expert in enumerate(experts):
        x, y = plane.place(gram[k])
        np.testing.assert_allclose(at(x, y), flat(load_denoiser(expert).state_dict()), atol=1e-6)
        assert np.hypot(x, y) == pytest.approx(np.linalg.norm(taus[k]))
    u, v = at(1.0, 0.0) - theta, at(0.0, 1.0) - theta
    np.testing.assert_allclose([u @ u, v @ v, u @ v], [1.0, 1.0, 0.0], atol=1e-5)


def test_what_lies_beside_the_plane_is_projected_on_it(taus: np.ndarray, rng: np.random.Generator) -> None:
    plane = Plane.of(taus @ taus.T)
    beside = rng.standard_normal(taus.shape[1])
    x, y = plane.place(taus @ beside)
    w = np.array(plane.weights(x, y))
    np.testing.assert_allclose(taus @ (w @ taus), taus @ beside, rtol=1e-9)  # what is left is orthogonal to the plane


@pytest.mark.parametrize("side", [5, 11, 12])
@pytest.mark.parametrize("points", [[(2.0, 0.0), (0.3, 1.0)], [(2.0, 0.0), (-5.0, 1.0)], [(0.1, 0.0), (0.0, 3.0)]])
def test_theta_is_a_point_of_the_grid_and_all_points_lie_within(points: list[tuple[float, float]], side: int) -> None:
    for k, axis in enumerate(Plane(points[0][0], *points[1]).grid(points, side)):
        assert len(axis) == side
        np.testing.assert_allclose(np.diff(axis), axis[1] - axis[0])
        at = int(np.abs(axis).argmin())
        assert axis[at] == 0
        assert 0 < at < side - 1  # it has neighbours on either side
        values = [0.0, *(point[k] for point in points)]
        assert axis[0] < min(values)
        assert axis[-1] > max(values) - 1e-12


@pytest.mark.parametrize("gram", [[[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
def test_vectors_that_span_no_plane_are_refused(gram: list[list[float]]) -> None:
    with pytest.raises(InputError, match=r"params: analyse\.plane: these two task vectors are parallel, or one is 0"):
        Plane.of(np.array(gram))


def test_slopes_and_lowest_point_of_a_known_loss() -> None:
    xs, ys = np.linspace(-1, 2, 7), np.linspace(-2, 1, 7)
    X, Y = np.meshgrid(xs, ys, indexing="ij")
    noise = 1 + 0.01 * np.arange(8) / 8  # images differ in size alone
    values = (10 + 2 * X - 0 * Y + (X + 0.5) ** 2 + (Y - 0.5) ** 2)[..., None] * noise
    rows = list(_rows(ALL, values, xs, ys, ("a", 3.0), ("b", 4.0)))
    at_theta = 10 + 0.25 + 0.25
    slopes = {row[2]: row[5:] for row in rows if row[0] == SLOPE}
    assert slopes["a"][0] == pytest.approx(100 * (2 + 1) / at_theta * 3.0)
    assert slopes["b"][0] == pytest.approx(100 * -1 / at_theta * 4.0)
    assert slopes["b"][2] < 0 < slopes["a"][1]  # both told from 0
    (lowest,) = (row for row in rows if row[0] == LOWEST)
    assert lowest[3:5] == [-1.0, 0.5]
    assert lowest[5] == pytest.approx(100 * ((10 - 2 + 0.25) / at_theta - 1))
    assert len([row for row in rows if row[0] == LOSS]) == 49
