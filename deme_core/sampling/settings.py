"""Sections `sampler`, `sample` and `loss_matrix`."""

from dataclasses import dataclass
from typing import Literal

from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class SamplerParams:
    """Section `sampler`: one protocol for the search and for the evaluation."""

    kind: Literal["ddim", "ddpm"]
    steps: int
    """Network calls an image."""
    spacing: Literal["uniform", "quadratic", "trailing"]
    """Of the DDIM timesteps: `uniform` is diffusers' leading, `quadratic` that of the DDIM paper's CIFAR10 runs."""
    block: int
    """Images a network call. Part of the protocol: float results depend on it in the last bits."""
    dtype: Literal["float32", "float16", "bfloat16"]

    def __post_init__(self) -> None:
        check(self.steps >= 1, "sampler.steps", self.steps, "must be at least 1")
        check(self.block >= 1, "sampler.block", self.block, "must be at least 1")
        check(
            self.kind == "ddim" or self.spacing == "uniform", "sampler.spacing", self.spacing,
            "is uniform with the ddpm sampler",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """Section `sample`."""

    images: int
    """Images a model, from the evaluation seeds."""

    def __post_init__(self) -> None:
        check(self.images >= 1, "sample.images", self.images, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LossMatrixParams:
    """Section `loss_matrix`."""

    draws: int
    """Timesteps and noises for every held-out image and range."""

    def __post_init__(self) -> None:
        check(self.draws >= 1, "loss_matrix.draws", self.draws, "must be at least 1")
