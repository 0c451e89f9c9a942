"""Section `away`: the step away from own samples whose length no search chooses, for a model without any data."""

import math
from dataclasses import dataclass

from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class AwayParams:
    """How far the merge leads away from what was learned from own samples."""

    w: float
    """Of θ − w·mean(τ), in units of their task vector."""

    def __post_init__(self) -> None:
        check(0 < self.w < math.inf, "away.w", self.w, "must be a finite number above 0: its step is taken backwards")

    def weights(self, N: int) -> list[float]:
        """The merge weight of each of N task vectors."""
        return [-self.w / N] * N
