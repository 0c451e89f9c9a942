"""Section `analyse`: how large the samples are that the figures rest on."""

from dataclasses import dataclass

from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class AnalyseParams:
    """Sizes of the samples behind the figures."""

    groups: int
    """Independent groups of draws: a product of two of them has no bias, and intervals are over them."""
    draws: int
    """Of (x_0, ε, t) in a group, for each range; its bins share them out."""
    bins: int
    """Of every range, between which gradients are compared."""
    batch_size: int
    """Draws that a gradient is formed of at once, a matter of memory alone; of small images it may be more."""
    gradient_checkpointing: bool
    """Less memory for gradients, more time."""
    coordinates: int
    """Weights, drawn at random, that gradients of a larger network are compared by."""
    plane: tuple[str, ...] | None
    """Names of the two task vectors that span the plane of the landscape; null: the experts of the first and the last
    range."""
    grid: int
    """Points of the landscape along a side."""
    images: int
    """Images of the training part, for a loss on every range or an activation."""
    distance_images: int
    """Images sampled at every point of the landscape for its Fréchet distance; 0 leaves it out."""
    pictures: int
    """Pairs of pictures, by position, and as many where base and merge differ most."""

    def __post_init__(self) -> None:
        check(self.groups >= 3, "analyse.groups", self.groups, "must be at least 3: intervals leave one out")
        for key in ("draws", "bins", "batch_size", "coordinates", "pictures"):
            check(getattr(self, key) >= 1, f"analyse.{key}", getattr(self, key), "must be at least 1")
        check(self.draws >= self.bins, "analyse.draws", self.draws, f"must be at least bins = {self.bins}")
        check(self.images >= 4, "analyse.images", self.images, "must be at least 4: intervals are over halves of them")
        check(self.grid >= 5, "analyse.grid", self.grid, "must be at least 5 points a side")
        check(self.distance_images != 1 and self.distance_images >= 0, "analyse.distance_images", self.distance_images,
              "must be 0, or at least 2: a covariance is estimated from them")  # fmt: skip
        check(
            self.plane is None or len(set(self.plane)) == len(self.plane) == 2, "analyse.plane", self.plane,
            "must be two names of task vectors, such as ['expert 1', 'expert 4'], or null",
        )  # fmt: skip
