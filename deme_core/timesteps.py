"""The partition of [0, T) into timestep ranges, and the draw of training timesteps (Eq. 3, 6, 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from deme_core.errors import InputError

Span = tuple[int, int]
"""[low, high) of timesteps."""


def span_name(span: Span) -> str:
    """A span for people."""
    return "[{}, {})".format(*span)


@dataclass(frozen=True)
class TimestepRanges:
    """N half-open ranges [bounds[i-1], bounds[i]) that cover [0, T); i counts from 1, as in the paper."""

    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        b = self.bounds
        if len(b) < 2 or b[0] != 0 or any(low >= high for low, high in pairwise(b)):
            raise InputError(
                f"boundaries {list(b)} do not partition [0, {b[-1] if b else 'T'}): they must start at 0 and"
                " rise strictly up to T"
            )

    @classmethod
    def equal(cls, N: int, T: int) -> "TimestepRanges":
        """Eq. 3. Range i starts at ceil((i-1)T/N), so that the expert for t is floor(tN/T) counted from 0 (Eq. 7)."""
        if not 1 <= N <= T:
            raise InputError(f"N = {N}: the number of ranges must lie in [1, T = {T}]")
        return cls(tuple(-(-i * T // N) for i in range(N + 1)))

    @classmethod
    def of(cls, N: int, T: int, boundaries: Sequence[int] | None) -> "TimestepRanges":
        """The ranges of a run: `boundaries` (N + 1 numbers from 0 to T) where given, else N equal ones."""
        if boundaries is None:
            return cls.equal(N, T)
        if len(boundaries) != N + 1 or boundaries[-1] != T:
            raise InputError(
                f"boundaries {list(boundaries)} do not fit N = {N}, T = {T}: give N + 1 = {N + 1} rising numbers"
                f" from 0 to {T}, or null for equal ranges"
            )
        return cls(tuple(boundaries))

    @property
    def N(self) -> int:
        """Number of ranges."""
        return len(self.bounds) - 1

    @property
    def T(self) -> int:
        """Number of timesteps."""
        return self.bounds[-1]

    def range(self, i: int) -> Span:
        """[low, high) of range i, 1 <= i <= N."""
        if not 1 <= i <= self.N:
            raise InputError(f"range {i} does not exist: N = {self.N} ranges are numbered 1 to {self.N}")
        return self.bounds[i - 1], self.bounds[i]

    def expert(self, t: int) -> int:
        """The range that holds t, counted from 1 (Eq. 7)."""
        if not 0 <= t < self.T:
            raise InputError(f"timestep {t} lies outside [0, {self.T})")
        return sum(t >= bound for bound in self.bounds[:-1])


def draw_timesteps(
    n: int,
    span: tuple[int, int],
    T: int,
    p: float,
    *,
    draw: str = "per_sample",
    antithetic: bool = False,
    generator: torch.Generator,
) -> torch.Tensor:
    """Eq. 6: n timesteps, each from the full range [0, T) with probability p, else from its own range.

    Args:
        own: [low, high) of the expert's range.
        draw: `per_sample` decides range by range for every sample (Eq. 6); `per_batch` decides once for all n, as
            the authors' released code does.
        antithetic: the second half mirrors the first, t -> low + high - 1 - t within its range; n must be even.

    Returns:
        int64 tensor [n] on the generator's device.
    """
    device = generator.device
    count = n // 2 if antithetic else n
    if antithetic and n % 2:
        raise InputError(f"batch_size = {n} is odd: antithetic timesteps come in pairs; use an even batch size")
    choices = 1 if draw == "per_batch" else count
    full = torch.rand(choices, generator=generator, device=device) < p
    low = torch.where(full, 0, span[0])
    high = torch.where(full, T, span[1])
    u = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    t = low + (u * (high - low)).long()
    return torch.cat([t, low + high - 1 - t]) if antithetic else t
