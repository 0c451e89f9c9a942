"""The copy rate."""

from __future__ import annotations

import numpy as np
import pytest

from deme_core.metrics.neighbours import copy_rate


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
