"""What a window moves: a few sliders, and the weights of all task vectors that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from deme_core.errors import InputError
from deme_core.search.trials import Weights


@dataclass(frozen=True)
class Direction:
    """Task vectors from one source."""

    name: str
    """`range` of the experts, else of `deme_core.dag.FURTHER`."""
    vectors: tuple[Path, ...]
    labels: tuple[str, ...]
    """Of its sliders: one a vector, or one for all, which is shared out evenly over them."""
    bounds: tuple[float, float]
    """Lowest and highest value of a slider."""

    @property
    def share(self) -> int:
        """How many vectors a slider moves."""
        return len(self.vectors) // len(self.labels)


@dataclass(frozen=True)
class Directions:
    """All of a window, the experts first."""

    each: tuple[Direction, ...]

    @property
    def vectors(self) -> list[Path]:
        """The files of all task vectors, direction after direction."""
        return [file for one in self.each for file in one.vectors]

    @property
    def places(self) -> dict[str, range]:
        """Direction -> where its vectors stand among all."""
        ends = list(accumulate(len(one.vectors) for one in self.each))
        return {one.name: range(end - len(one.vectors), end) for one, end in zip(self.each, ends, strict=True)}

    def weights(self, values: Sequence[float]) -> Weights:
        """The weights of all task vectors, where the sliders stand at `values`.

        Raises:
            InputError: another number of sliders.
        """
        shares = [one.share for one in self.each for _ in one.labels]
        if len(values) != len(shares):
            raise InputError(f"{len(values)} weights: the window has {len(shares)} sliders; give one number for each")
        return tuple(float(w) / n for w, n in zip(values, shares, strict=True) for _ in range(n))

    def values(self, weights: Sequence[float]) -> list[float]:
        """Where the sliders stand for these weights of all task vectors; one shared slider stands for their sum."""
        shares = [one.share for one in self.each for _ in one.labels]
        starts = accumulate(shares, initial=0)
        return [sum(weights[at : at + n]) if n > 1 else weights[at] for at, n in zip(starts, shares, strict=False)]

    def along(self, name: str, value: float) -> list[float]:
        """The sliders of one direction at this value, and all others at 0."""
        return [value if one.name == name else 0.0 for one in self.each for _ in one.labels]

    @property
    def uniform(self) -> list[float]:
        """The sliders at 1/N for each expert, and 0 for what is no expert."""
        experts = self.each[0]
        return self.along(experts.name, 1 / len(experts.labels))
