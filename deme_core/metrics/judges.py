"""Judges: extractors that nothing was chosen by. Their distances say whether a model is better."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deme_core.errors import InputError
from deme_core.metrics.cmmd import CmmdReference
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.features import load_extractor, read_config
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments

Distance = Callable[[np.ndarray], float]
"""Features [n, D] of a model's samples -> their distance to real images; lower is better."""
BlockDistances = dict[str, list[float]]
"""JUDGE_PART -> the distance of each seed block."""


@dataclass(frozen=True)
class Judge:
    """One extractor and its distance."""

    extractor: Extractor
    distance_to: Callable[[np.ndarray], Distance]
    """Features [m, D] of real images -> the distance to them."""

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.extractor.name


def judge_folders(group: Path) -> list[Path]:
    """The folders of a group's extractors, by name.

    Raises:
        InputError: there is none.
    """
    folders = sorted({file.parent for name in ("config.json", "recipe.yaml") for file in group.glob(f"*/{name}")})
    if not folders:
        raise InputError(
            f"params: judges: '{group}' holds no extractor (a folder with config.json each); take one such as"
            " zoo/judges/digits/final"
        )
    return folders


def load_judges(group: Path) -> list[Judge]:
    """The judges of a group, by name.

    Raises:
        InputError: as `judge_folders`; or one of them is broken.
    """
    return [Judge(load_extractor(str(folder)), _distance_of(folder)) for folder in judge_folders(group)]


def _distance_of(folder: Path) -> Callable[[np.ndarray], Distance]:
    """CMMD for CLIP, as its authors measure; else the Fréchet distance."""
    if read_config(folder)["_class_name"] == "CLIP":
        return lambda real: CmmdReference(real).distance
    return _frechet_to


def _frechet_to(real: np.ndarray) -> Distance:
    reference = FrechetReference(Moments.of(real))
    return lambda features: reference.distance(Moments.of(features))


def group_name(folder: Path, judges: Sequence[Judge]) -> str:
    """FOLDER-HASH of a group; another set of judges, or one with other weights, has another."""
    digest = hashlib.sha256(repr([(judge.name, judge.extractor.sha256) for judge in judges]).encode())
    return f"{folder.as_posix()}-{digest.hexdigest()[:8]}"


def real_distance(judge: Judge, heldout: np.ndarray, train: np.ndarray, images: int) -> float:
    """Mean distance to the held-out images of disjoint sets of so many training images: what a model is held against.

    A distance of more images reads lower, so that only one of as many can stand beside a model's.

    Args:
        heldout, train: features [m, D] by this judge.
        images: a set; all training images are the only one where they are fewer.
    """
    distance, sets = judge.distance_to(heldout), max(1, len(train) // images)
    return float(np.mean([distance(train[k::sets][:images]) for k in range(sets)]))


def block_distances(
    judge: Judge, features: np.ndarray, references: Mapping[str, np.ndarray], blocks: int
) -> BlockDistances:
    """The distance of each seed block to each part of the real images.

    Args:
        features: [n, D] of a model's samples by this judge, in the order of their index.
        references: part -> [m, D] of real images.
    """
    to = {part: judge.distance_to(real) for part, real in references.items()}
    parts = np.split(features, blocks)
    return {f"{judge.name}_{part}": [distance(rows) for rows in parts] for part, distance in to.items()}
