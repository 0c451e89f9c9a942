"""Section `merge_search`."""

import math
from dataclasses import dataclass
from pathlib import Path

from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """How merge weights are found."""

    method: str
    """A row of `deme_core.search.methods.METHODS`, or `auto`."""
    objective: str
    """What is made small: a row of `deme_core.search.objective.SCORES`, a weighted sum of them, or `loss`."""
    budget: int
    """Sampled images of the first round. Forward images of a loss count 1 / (sampling steps) each."""
    images: int
    """Images a trial of the first round, on the search seeds."""
    prompts: tuple[str, ...] = ()
    """Sets of the section `prompts` whose texts images have in turn with the captions of the training part."""
    extractors: tuple[str, ...] = ()
    """Folders of extractors whose Fréchet distances share the score with that of `reference.extractor`: a geometric
    mean."""
    bounds: tuple[float, float]
    """Lowest and highest value of a weight; a lowest one below 0 admits negative weights."""
    fixed: tuple[float | None, ...] | None
    """N entries: the value of a weight that is not searched, null for one that is. null: all are searched."""
    per_block: bool
    """Whether every block of the network has N weights of its own."""
    towards_shared: float
    """Of `gradient` with per_block: weight of the blocks' mean squared distance from the weights they share."""
    values: tuple[float, ...]
    """Values that each weight may take in the methods `grid` and `coordinate`."""
    scales: tuple[float, ...]
    """For a baseline's one task vector: values of its scale; 0 and 1 are always tried beside them."""
    away: tuple[float, ...]
    """For a step away from own samples: its lengths, in units of their task vector; 0 and 1 are tried beside them."""
    seed: int
    """Of the candidates that a method draws."""
    finalists: int
    """How many of the nominated weights go to the second round at most, with the uniform weights and w = 0."""
    final_images: int
    """Images a finalist, on seeds that the first round has not seen."""
    final_blocks: int
    """Seed blocks they are split into: the best finalist must beat w = 0 by the paired interval over these."""

    def __post_init__(self) -> None:
        low, high = self.bounds if len(self.bounds) == 2 else (1.0, 0.0)
        check(
            low <= 0 < high < math.inf and low > -math.inf, "merge_search.bounds", list(self.bounds),
            "must be [lowest, highest] weight, lowest <= 0 < highest: w = 0 is always a candidate",
        )  # fmt: skip
        folders = {Path(folder).parent for folder in self.extractors}
        check(
            len(self.extractors) < 2 or (len(folders) == 1 and folders != {Path()}), "merge_search.extractors",
            list(self.extractors), "several must lie in one folder, at which DVC looks; copy them into one",
        )  # fmt: skip
        check(len(self.values) > 0, "merge_search.values", list(self.values), "must name at least one value")
        check(
            all(low <= value <= high for value in self.values), "merge_search.values", list(self.values),
            f"must lie within bounds = {list(self.bounds)}",
        )  # fmt: skip
        check(all(map(math.isfinite, self.scales)), "merge_search.scales", list(self.scales), "must be finite numbers")
        check(
            all(0 < length < math.inf for length in self.away), "merge_search.away", list(self.away),
            "must be finite lengths above 0",
        )  # fmt: skip
        given = [w for w in self.fixed or () if w is not None]
        check(all(map(math.isfinite, given)), "merge_search.fixed", given, "must be finite numbers or null")
        check(
            0 <= self.towards_shared < math.inf, "merge_search.towards_shared", self.towards_shared,
            "must be a finite number, not negative",
        )  # fmt: skip
        check(self.seed >= 0, "merge_search.seed", self.seed, "must not be negative")
        check(self.finalists >= 1, "merge_search.finalists", self.finalists, "must be at least 1")
        check(self.final_blocks >= 2, "merge_search.final_blocks", self.final_blocks, "must be at least 2")
        check(
            self.final_images % self.final_blocks == 0, "merge_search.final_images", self.final_images,
            f"must be a multiple of final_blocks = {self.final_blocks}",
        )  # fmt: skip
        for name, images in (("images", self.images), ("final_images", self.final_images // self.final_blocks)):
            check(
                images >= 2, f"merge_search.{name}", getattr(self, name),
                "must be at least 2 a block: a covariance is estimated from them",
            )  # fmt: skip
        check(
            self.budget >= 2 * self.images, "merge_search.budget", self.budget,
            f"must be at least 2 × images = {2 * self.images}: w = 0 and w = 1/N",
        )  # fmt: skip
