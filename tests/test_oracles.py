"""Metrics beside what others wrote: torch-fidelity and pytorch-fid, on the same features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import frechet_distance
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.manifolds import precision_recall
from deme_core.metrics.moments import Moments

Sets = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def sets() -> Sets:
    """Features float64 [200, 64] of digits, and of as many others with less contrast."""
    from deme_core.data.images import DataParams
    from deme_core.data.sources import read_digits

    pixels = read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2)).pixels
    extractor = load_extractor(str(Path("zoo/digits-features")))
    faded = (pixels[200:400].float() * 0.8).to(torch.uint8)
    return extractor([pixels[:200]]).astype(np.float64), extractor([faded]).astype(np.float64)


def fidelity_precision_recall(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    found = prc.prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(real), verbose=False)
    return found["precision"], found["recall"]


def test_frechet_distance_is_pytorch_fids(sets: Sets) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    real, ours = sets
    statistics = [(rows.mean(axis=0), np.cov(rows, rowvar=False)) for rows in (ours, real)]
    theirs = fid_score.calculate_frechet_distance(*statistics[0], *statistics[1])
    assert theirs > 1
    assert frechet_distance(Moments.of(ours), Moments.of(real)) == pytest.approx(theirs, rel=1e-6)


def test_frechet_distance_is_torch_fidelitys(sets: Sets) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    real, ours = sets
    statistics = [fid.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (ours, real)]
    theirs = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(Moments.of(ours), Moments.of(real)) == pytest.approx(theirs, rel=1e-6)


def test_kernel_distance_is_torch_fidelitys(sets: Sets) -> None:
    """One subset of all rows: its draw is a permutation, which changes nothing."""
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    real, ours = sets
    arguments = {"kid_subsets": 1, "kid_subset_size": len(ours), "verbose": False}
    found = kid.kid_features_to_metric(torch.from_numpy(ours), torch.from_numpy(real), **arguments)
    theirs = found["kernel_inception_distance_mean"]
    assert theirs > 0
    assert kernel_distance(ours, real) == pytest.approx(theirs, rel=1e-9)


def test_precision_and_recall_are_torch_fidelitys(sets: Sets) -> None:
    real, ours = sets
    found = precision_recall(real, ours)
    assert found == pytest.approx(fidelity_precision_recall(ours, real))
    assert found[0] != found[1]  # or the two could be swapped unseen
    assert 0 < min(found) < 1


def test_a_generated_part_of_the_real_set_is_precise_and_recalls_that_part(sets: Sets) -> None:
    """What tools that swap the two get wrong."""
    real = sets[0]
    part = real[np.argsort(real[:, 0])[:40]]
    precision, recall = precision_recall(real, part)
    assert precision == 1
    assert recall < 0.6
    assert (precision, recall) == pytest.approx(fidelity_precision_recall(part, real))
