"""What the page asks its server for, checked as params are."""

import math
from dataclasses import dataclass

from deme_core.params import check

MOST = 64  # images at once


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Images of one merge."""

    weights: tuple[float, ...]
    """Where the sliders stand."""
    seed: int
    """Number of the first image among those of the stage `sample`."""
    images: int
    steps: int
    """Of the sampler."""
    prompt: str = ""
    """Of all images; empty: the run's own."""

    def __post_init__(self) -> None:
        check(all(map(math.isfinite, self.weights)), "weights", list(self.weights), "must be finite numbers")
        check(self.seed >= 0, "seed", self.seed, "must not be negative")
        check(1 <= self.images <= MOST, "images", self.images, f"must lie in 1 … {MOST}")
        check(self.steps >= 1, "steps", self.steps, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A merge to be written."""

    weights: tuple[float, ...]
    folder: str

    def __post_init__(self) -> None:
        check(all(map(math.isfinite, self.weights)), "weights", list(self.weights), "must be finite numbers")
        check(bool(self.folder.strip()), "folder", self.folder, "name a new folder to write into")
