"""Precision and recall against their definition written out, and closed cases."""

import numpy as np
import pytest

from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.manifolds import precision_recall


def share_covered(queries: np.ndarray, rows: np.ndarray, k: int) -> float:
    """Eq. 1 and 2 of Kynkäänniemi et al., distance by distance."""
    covered = 0
    for query in queries:
        for i, row in enumerate(rows):
            others = sorted(float(np.linalg.norm(row - other)) for j, other in enumerate(rows) if j != i)
            if np.linalg.norm(query - row) <= others[k - 1]:
                covered += 1
                break
    return covered / len(queries)


@pytest.mark.parametrize("chunk_rows", [1, 7, 256])
@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_definition(k: int, chunk_rows: int) -> None:
    rng = np.random.default_rng(k)
    real, generated = rng.normal(size=(40, 3)), 1.5 * rng.normal(size=(31, 3)) + 0.5
    found = precision_recall(real, generated, k, chunk_rows)
    assert found == (share_covered(generated, real, k), share_covered(real, generated, k))
    assert 0 < found[0] < 1


def test_a_common_offset_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 4)), 1.3 * rng.normal(size=(60, 4))
    assert precision_recall(real + 1e5, generated + 1e5) == precision_recall(real, generated)


def test_equal_sets_cover_each_other_and_distant_ones_do_not() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 5))
    assert precision_recall(rows, rows) == (1.0, 1.0)
    assert precision_recall(rows, rows + 100) == (0.0, 0.0)


def test_a_collapsed_model_is_precise_and_recalls_little() -> None:
    rng = np.random.default_rng(0)
    precision, recall = precision_recall(rng.normal(size=(300, 2)), 0.01 * rng.normal(size=(300, 2)))
    assert precision == 1.0
    assert recall < 0.05


@pytest.mark.parametrize(
    ("real", "generated", "k", "message"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), 3, "real has dimension 2 and generated 3"),
        (np.ones((3, 2)), np.ones((5, 2)), 3, "k = 3 of 3 real and 5 generated rows"),
        (np.ones((5, 2)), np.ones((5, 2)), 0, "k = 0 of 5 real"),
        (np.ones((5, 2)), np.full((5, 2), np.nan), 3, "generated holds NaN"),
    ],
)
def test_what_has_no_answer_is_refused(real: np.ndarray, generated: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall(real, generated, k)


def test_an_evaluation_compares_sets_of_one_size_spread_over_all_rows() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    by_class = np.concatenate([np.full((60, 3), 50.0) + rng.normal(size=(60, 3)), rng.normal(size=(60, 3))])
    metrics, _ = evaluate(features, features, {"train": by_class}, EvaluateParams(blocks=2))
    assert (metrics["precision"], metrics["recall"]) == precision_recall(by_class[::3], features)
    assert 0.2 < metrics["recall"] < 0.6  # half of the classes is missing


def test_a_kernel_matrix_in_chunks_gives_the_same_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(70, 4)) + 0.2
    whole = kernel_distance(x, y)
    monkeypatch.setattr("deme_core.metrics.kernel.CHUNK_ROWS", 11)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)
