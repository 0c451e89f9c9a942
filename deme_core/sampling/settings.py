"""Sections `sampler`, `sample` and `own_samples`."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from deme_core.params import check, section


@dataclass(frozen=True, kw_only=True)
class SamplerParams:
    """Section `sampler`: one protocol for the search and for the evaluation."""

    kind: Literal["ddim", "ddpm", "pndm", "dpm_solver", "unipc"]
    """`pndm` is that of Stable Diffusion (PLMS, without Runge-Kutta steps), `dpm_solver` DPM-Solver++, `unipc` UniPC,
    both of order 2."""
    steps: int
    """Denoising steps an image."""
    spacing: Literal["uniform", "quadratic", "trailing", "linspace"]
    """Of the timesteps: `uniform` is diffusers' leading, `quadratic` that of the DDIM paper's CIFAR10 runs; `trailing`
    and `linspace` are called so there, too."""
    block: int
    """Images a network call. Part of the protocol: float results depend on it in the last bits."""
    dtype: Literal["float32", "float16", "bfloat16"]
    timesteps: tuple[int, ...] | Literal["ays"] | None = None
    """In place of `spacing`, of ddim, ddpm and dpm_solver: own timesteps, falling, as many as `steps`; or `ays`, the
    ten of Align Your Steps (Sabour et al. 2024) for Stable Diffusion 1."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, ε_∅ + s(ε_c − ε_∅); 1 asks for the condition's prediction alone."""

    def __post_init__(self) -> None:
        check(self.steps >= 1, "sampler.steps", self.steps, "must be at least 1")
        check(self.block >= 1, "sampler.block", self.block, "must be at least 1")
        check(
            self.kind == "ddim" or self.spacing != "quadratic", "sampler.spacing", self.spacing,
            "is quadratic with the ddim sampler only; take uniform, trailing or linspace",
        )  # fmt: skip
        check(self.kind != "pndm" or self.steps >= 2, "sampler.steps", self.steps, "must be at least 2 with pndm")
        if (timesteps := self.timesteps) is not None:
            name, takes = "sampler.timesteps", ("ddim", "ddpm", "dpm_solver")
            check(self.kind in takes, name, timesteps, f"are no way of {self.kind}; take {', '.join(takes)}")
        if isinstance(timesteps, tuple):
            check(len(timesteps) == self.steps, name, timesteps, f"must be as many as sampler.steps = {self.steps}")
            falling = all(a > b for a, b in pairwise(timesteps)) and timesteps[-1] >= 0
            check(falling, name, timesteps, "must fall from step to step, to 0 or above")
        check(math.isfinite(self.guidance), "sampler.guidance", self.guidance, "must be a finite number; 1 is none")

    @property
    def calls(self) -> int:
        """Network calls an image: PLMS makes one step twice, guidance calls with and without the condition."""
        return (self.steps + (self.kind == "pndm")) * (1 if self.guidance == 1 else 2)


def sampler_of(params: dict[str, Any]) -> SamplerParams:
    """The section of a whole params.yaml, for who checks it beside a model, and makes nothing of it."""
    return section(params, "sampler", SamplerParams)


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """Section `sample`."""

    images: int
    """Images a model, from the evaluation seeds."""
    prompts: str | None = None
    """Of a text-to-image model: a set of the section `prompts`; image k has its prompt k modulo their number."""

    def __post_init__(self) -> None:
        check(self.images >= 1, "sample.images", self.images, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class OwnParams:
    """Section `own_samples`."""

    images: int
    """That the pretrained model makes to be trained on, from seeds that nothing else uses."""
    ranges: int
    """Of timesteps, each with a finetune of its own on them; 1 is Neon."""

    def __post_init__(self) -> None:
        check(self.ranges >= 1, "own_samples.ranges", self.ranges, "must be at least 1")
        check(
            self.images >= 20, "own_samples.images", self.images,
            "must be at least 20: a tenth as many are for validation, and of one alone there is no interval",
        )  # fmt: skip

    @property
    def validation(self) -> int:
        """Images beside them, which no training sees."""
        return self.images // 10

    @property
    def whole(self) -> int:
        """All images."""
        return self.images + self.validation

    def first(self, seed: int) -> int:
        """The number of the first image in its seed block: another training seed has other images."""
        return seed * self.whole
