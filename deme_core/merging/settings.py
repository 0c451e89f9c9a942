"""Section `merge_search`."""

import math
from dataclasses import dataclass
from typing import Literal

from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """How merge weights are found."""

    method: Literal["auto", "grid", "coordinate"]
    """`auto` is a grid (Sec. 3.3) for N <= 4, coordinate descent over the same values beyond."""
    values: tuple[float, ...]
    """Values that each weight may take; w = 0 and the uniform 1/N are always tried beside them."""
    scales: tuple[float, ...]
    """For a rival's one task vector: values of its scale; 0 and 1 are always tried beside them."""
    max_trials: int
    """Most weights that are scored in the first round."""
    images: int
    """Images a trial of the first round, on the search seeds."""
    finalists: int
    """How many of the best go to the second round, with the uniform weights and w = 0."""
    final_images: int
    """Images a finalist, on seeds that the first round has not seen."""
    final_blocks: int
    """Seed blocks they are split into: the best finalist must beat w = 0 by the paired interval over these."""

    def __post_init__(self) -> None:
        check(len(self.values) > 0, "merge_search.values", list(self.values), "must name at least one value")
        for name in ("values", "scales"):
            values = getattr(self, name)
            check(all(map(math.isfinite, values)), f"merge_search.{name}", list(values), "must be finite numbers")
        check(self.finalists >= 1, "merge_search.finalists", self.finalists, "must be at least 1")
        check(self.max_trials >= 2, "merge_search.max_trials", self.max_trials, "must be at least 2: w = 0 and w = 1/N")
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
