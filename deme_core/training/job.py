"""A training as a value: its seeds, its resume state and the recipe in its file derive from it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from deme_core.data.examples import Examples
from deme_core.timesteps import TimestepRanges
from deme_core.training.settings import TrainingParams

Curve = list[dict[str, float]]  # of a loss, a row every `log_every` steps
Snapshot = Callable[[int, nn.Module], None]  # is given a step, and the model holding its EMA weights


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no one answer to ==
class Job:
    """What is trained, on whatever data and from whatever weights."""

    label: str
    """Its name in messages and in the seeds of its draws."""
    ranges: TimestepRanges
    """Of the whole schedule."""
    i: int = 1
    """The range that is trained, counted from 1."""
    p: float = 0.0
    """Probability of drawing a timestep from the full range (Eq. 6)."""
    seed: int
    """Of its draws."""
    settings: TrainingParams
    loss_weights: torch.Tensor | None = None
    """Weight of the loss at each timestep, [T] >= 0; None weighs all alike. All 0 asks for nothing."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else its recipe tells, as JSON."""

    @property
    def trained_range(self) -> tuple[int, int]:
        """[low, high) of the timesteps that are trained."""
        return self.ranges.range(self.i)

    @property
    def recipe(self) -> dict[str, Any]:
        """What the metadata of its weights tell, as JSON; the facts come last."""
        named = {"bounds": list(self.ranges.bounds), "range": self.i, "p": self.p, "seed": self.seed}
        return named | {"finetune_range": asdict(self.settings)} | self.facts

    def identity(self, examples: Examples) -> dict[str, Any]:
        """What its result depends on, as JSON, but for the network that it begins with: all of it, and the data."""
        weights = None if self.loss_weights is None else self.loss_weights.tolist()
        return asdict(self) | {"loss_weights": weights, "data": examples.sha256}
