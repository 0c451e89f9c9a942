"""Classifier two-sample test: how well a classifier tells samples from real images by a judge's features.

Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests", arXiv 1610.06545; in the place of its accuracy, the
area under the ROC curve: 0.5 where the two sets cannot be told apart, 1 where each image gives itself away.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from deme_core.metrics.intervals import t_interval
from deme_core.metrics.moments import Array, feature_matrix, spread

FOLDS = 5
SIZE = 500  # images of each set; with more, the mean over blocks gets little sharper and the fits take minutes
GREYS = 256
PREFIX = "c2st"  # before the name of a judge, in scores and metrics


def grey_levels(pixels: torch.Tensor, chunk: int = 1000) -> list[int]:
    """The values that occur in uint8 [n, C, H, W], ascending; the rest is not read once all 256 were seen."""
    seen = np.zeros(GREYS, dtype=bool)
    for part in pixels.split(chunk):
        seen[np.unique(part.numpy())] = True
        if seen.all():
            break
    return np.flatnonzero(seen).tolist()


def quantised(parts: Iterable[torch.Tensor], levels: Sequence[int]) -> Iterable[torch.Tensor]:
    """A stream of uint8 images with every pixel at the nearest of the `levels`, the lower one of two as near.

    Real images may have few of the 256 values, as digits have 17: any other value would give a sample away, and no
    eye would see it.
    """
    known = np.asarray(levels)
    table = known[np.abs(np.arange(GREYS)[:, None] - known).argmin(axis=1)].astype(np.uint8)
    return (torch.from_numpy(table[part.numpy()]) for part in parts)


def separability(a: np.ndarray, b: np.ndarray) -> float:
    """Area under the ROC curve of a classifier of a [n, D] against b [n, D], n >= 5, cross-validated.

    A support vector machine with the kernel exp(−‖x − y‖² / D) of standardised features. Its mean over five folds,
    each fitted on the other four; row i of `a` and of `b` are in one fold, so that swapping the sets changes nothing.
    Nothing is drawn. Below 0.5, beyond noise, where the means of `a` and `b` are nearer than those of independent
    draws: then what a fold lacks of them, the other folds have too much of.

    ValueError for unequal sets, fewer rows than folds, or values that are not finite.
    """
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.model_selection import PredefinedSplit, cross_val_score
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = feature_matrix(a, "a"), feature_matrix(b, "b")
    if x.shape != y.shape or len(x) < FOLDS:
        raise ValueError(f"sets of {x.shape} and {y.shape} features; they must be equal, with at least {FOLDS} rows")
    rows: Array = StandardScaler().fit_transform(np.concatenate([x, y]))  # sees no label
    labels, folds = np.repeat([1, 0], len(x)), np.tile(np.arange(len(x)) % FOLDS, 2)
    machine, split = SVC(kernel="precomputed", tol=1e-6), PredefinedSplit(folds)
    return float(cross_val_score(machine, rbf_kernel(rows), labels, cv=split, scoring="roc_auc").mean())


def two_sample(features: np.ndarray, references: Mapping[str, np.ndarray], blocks: int) -> dict[str, list[float]]:
    """`separability` by one judge in each seed block: of `samples`, and of `real` held-out images as the mark.

    Both against the same images of the training part, other ones in each block where there are enough. All sets are
    of one size, since the area grows with the images that the classifier learns from: the smallest of a block, the
    parts and 500.

    Args:
        features: [n, D] of quantised samples, in the order of their index.
        references: part -> [m, D] of real images; `train` and, where the data set holds one out, `heldout`.

    Returns:
        No `real` without a held-out part; nothing where a set has fewer than five images.
    """
    samples = np.split(features, blocks)
    size = min(SIZE, len(samples[0]), *map(len, references.values()))
    if size < FOLDS:
        return {}
    real = {part: spread(rows, size * blocks) for part, rows in references.items()}
    sets = {"samples": [rows[:size] for rows in samples]}
    if "heldout" in real:
        sets["real"] = [real["heldout"][k::blocks] for k in range(blocks)]
    return {
        name: [separability(rows, real["train"][k::blocks]) for k, rows in enumerate(of_blocks)]
        for name, of_blocks in sets.items()
    }


def two_sample_metrics(
    found: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Flat metrics, and the scores of each seed block, of judge -> `two_sample`; none where nothing was measured.

    Returns:
        `c2st_JUDGE` with `_low`, `_high` (95 %, over the blocks) and `c2st_JUDGE_real`, the mark; `c2st` with the
        same, the mean over all judges. Scores `c2st_JUDGE`.
    """
    metrics: dict[str, float] = {}
    of_judges = {f"{PREFIX}_{judge}": scores for judge, scores in found.items() if scores}
    if of_judges:
        names = next(iter(of_judges.values()))
        mean = {name: np.mean([scores[name] for scores in of_judges.values()], axis=0) for name in names}
        for key, scores in {PREFIX: mean, **of_judges}.items():
            metrics |= t_interval(scores["samples"]).named(key)
            if "real" in scores:
                metrics[f"{key}_real"] = float(np.mean(scores["real"]))
    return metrics, {key: list(scores["samples"]) for key, scores in of_judges.items()}
