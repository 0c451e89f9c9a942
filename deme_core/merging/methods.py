"""The merge methods: a pure function on tensors each, a row in METHODS each.

A function gets the elements of θ (float32, [n]), those of τ_1 … τ_N one after the other, w, the params and the key
of the tensor, and returns the merged elements, [n]. It consumes every τ_i, and changes none.

The greedy soup (Wortsman et al. 2022) is no row: it is a search for w, and stands in `search/methods.py`.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deme_core.params import check, section
from deme_core.seeds import step_seed

_BLOCK = re.compile(r"down_blocks\.\d+|mid_block|up_blocks\.\d+")
REST = "rest"


@dataclass(frozen=True, kw_only=True)
class MergeParams:
    """Section `merge`: how task vectors become one model. The defaults are Eq. 8 in θ's own dtype."""

    method: str = "task_arithmetic"
    """A row of METHODS."""
    density: float = 1.0
    """Of `ties` and `dare`: the share of each τ_i that is kept, in (0, 1]."""
    seed: int = 0
    """Of `dare`: what it drops."""
    blocks: dict[str, list[float]] = field(default_factory=dict)
    """Of `per_block`: block of the network -> its own N weights; other blocks take w."""
    dtype: Literal["float64", "float32", "float16", "bfloat16"] | None = None
    """What is written, by every merge of a run; null keeps θ's."""

    def __post_init__(self) -> None:
        check(self.method in METHODS, "merge.method", self.method, f"must be one of {', '.join(METHODS)}")
        check(0 < self.density <= 1, "merge.density", self.density, "the share that is kept must lie in (0, 1]")
        check(self.seed >= 0, "merge.seed", self.seed, "must not be negative")
        check(
            bool(self.blocks) == (self.method == "per_block"), "merge.blocks", self.blocks,
            "the method per_block needs weights of at least one block, the others take none",
        )  # fmt: skip
        for block, weights in self.blocks.items():
            known = block == REST or _BLOCK.fullmatch(block)
            check(bool(known), "merge.blocks", block, f"a block is down_blocks.0, mid_block, up_blocks.1, … or {REST}")
            numbers = isinstance(weights, list) and all(
                isinstance(w, int | float) and math.isfinite(w) for w in weights
            )
            check(numbers, f"merge.blocks.{block}", weights, "must be a list of N finite numbers")

    @property
    def written(self) -> torch.dtype | None:
        """The dtype as torch has it."""
        return getattr(torch, self.dtype) if self.dtype else None


def eq_8(params: dict[str, Any]) -> MergeParams:
    """Eq. 8 in the dtype of the section `merge`, whatever its method: all merges of a run are of one precision.

    Args:
        params: params.yaml.
    """
    return MergeParams(dtype=section(params, "merge", MergeParams).dtype)


def check_blocks(params: MergeParams, N: int, *, searched: bool = False) -> None:
    """N weights for every block that has its own; where they are searched, no other method than Eq. 8."""
    check(
        not searched or params.method == "task_arithmetic", "merge.method", params.method,
        "must be task_arithmetic where merge_search.per_block finds weights of every block",
    )  # fmt: skip
    for block, weights in params.blocks.items():
        check(len(weights) == N, f"merge.blocks.{block}", weights, f"must be N = {N} numbers, one a task vector")


def own_weights(
    params: MergeParams, blocks: Sequence[str], weights: Sequence[float]
) -> tuple[MergeParams, list[float]]:
    """`weights` of a search with N of each block, block after block, as the method per_block; and their mean."""
    by_block = np.array(weights).reshape(len(blocks), -1)
    params = replace(params, method="per_block", blocks=dict(zip(blocks, by_block.tolist(), strict=True)))
    return params, by_block.mean(0).tolist()


def formula(params: MergeParams, weights: Sequence[float] | None, N: int) -> str:
    """What a merge of N task vectors computes, in words; without weights 1/N each."""
    w = f"w = ({', '.join(f'{weight:.3g}' for weight in weights or [1 / N] * N)})"
    if params.method == "task_arithmetic":
        return f"θ + Σ wᵢτᵢ with {w}"
    blocks = f", own weights in {len(params.blocks)} blocks" if params.blocks else ""
    return f"{params.method} with {w}{blocks}" if METHODS[params.method].weighted else f"{params.method} of {N}"


def merge_tensor(
    theta: Tensor, taus: Iterable[Tensor], weights: Sequence[float], dtype: torch.dtype | None = None
) -> Tensor:  # fmt: skip
    """θ + Σ w_i τ_i (Eq. 8), summed in float32. w = 0 gives θ bit for bit: zero weights add nothing.

    Args:
        dtype: of the result; None: θ's.
    """
    total = theta.to(torch.promote_types(theta.dtype, torch.float32), copy=True)
    for w, tau in zip(weights, taus, strict=True):
        if w != 0:
            total.add_(tau, alpha=w)
    return total.to(dtype or theta.dtype)


def task_arithmetic(
    theta: Tensor, taus: Iterable[Tensor], weights: Sequence[float], params: MergeParams, key: str
) -> Tensor:
    """θ + Σ w_i τ_i (Eq. 8)."""
    return merge_tensor(theta, taus, weights)


def per_block(theta: Tensor, taus: Iterable[Tensor], weights: Sequence[float], params: MergeParams, key: str) -> Tensor:
    """Eq. 8 with a block's own weights, where `params.blocks` names it or `rest`, and w elsewhere."""
    return merge_tensor(theta, taus, params.blocks.get(block_of(key), weights))


def block_of(key: str) -> str:
    """The block of a diffusers U-Net that a tensor belongs to: down_blocks.0, mid_block, up_blocks.1, …, or rest."""
    found = _BLOCK.match(key)
    return found[0] if found else REST


def ties(theta: Tensor, taus: Iterable[Tensor], weights: Sequence[float], params: MergeParams, key: str) -> Tensor:
    """TIES: trim each τ_i, elect the sign of Σ w_i τ_i at each element, average those w_i τ_i that have it.

    The paper's λ is Σ |w_i| and its mean is weighted by |w_i|: w = λ/N for each is the paper's own rule, and one-hot
    weights give the trimmed expert. Trimming is per tensor, as in mergekit, not over the whole model as in the paper:
    tensors stream. A tie of signs goes to +.
    """
    scale = sum(map(abs, weights))
    up, down, up_mass, down_mass = (torch.zeros_like(theta) for _ in range(4))
    for w, tau in zip(weights, taus, strict=True):
        part = trim(tau, params.density).mul_(w)
        up_mass.add_(part > 0, alpha=abs(w))
        down_mass.add_(part < 0, alpha=abs(w))
        up += part.clamp(min=0)
        down += part.clamp_(max=0)
    if scale == 0:
        return theta
    elected = up + down >= 0
    up = torch.where(elected, up, down)  # a whole tensor each: the names are used again to free what is done with
    up_mass = torch.where(elected, up_mass, down_mass).clamp_(min=torch.finfo(theta.dtype).tiny)  # 0 if none is kept
    return torch.add(theta, up.div_(up_mass), alpha=scale)


def trim(tau: Tensor, density: float) -> Tensor:
    """A copy of τ with the largest density · n magnitudes of its n elements, at least one; 0 elsewhere."""
    drop = tau.numel() - max(1, round(density * tau.numel()))
    if drop <= 0:
        return tau.clone()
    # numpy's selection takes 0.4 s for 50 M elements, torch's kthvalue and topk 3 s.
    threshold = float(np.partition(tau.abs().numpy(), drop)[drop])
    return torch.where(tau.abs() >= threshold, tau, 0)


def dare(theta: Tensor, taus: Iterable[Tensor], weights: Sequence[float], params: MergeParams, key: str) -> Tensor:
    """DARE: drop each element of τ_i with probability 1 − density, rescale by 1/density, then Eq. 8.

    What is dropped depends on (seed, key, i) alone, not on the order in which tensors are merged.
    """

    def thinned() -> Iterator[Tensor]:
        for i, tau in enumerate(taus):
            generator = torch.Generator().manual_seed(step_seed("dare", params.seed, key, i))
            yield torch.where(torch.rand(tau.shape, generator=generator) < params.density, tau / params.density, 0)

    return merge_tensor(theta, thinned(), weights)


@dataclass(frozen=True)
class Method:
    """A row of METHODS."""

    merge: Callable[[Tensor, Iterable[Tensor], Sequence[float], MergeParams, str], Tensor]
    source: str
    """Whose method it is."""
    params: tuple[str, ...] = ()
    """The keys of MergeParams that it reads."""
    weighted: bool = True
    """Whether w is given; else it is 1/N."""
    copies: int = 0
    """How many float32 copies of the largest tensor it holds at once; 0: works on pieces, an element for itself."""


METHODS = {
    "task_arithmetic": Method(task_arithmetic, "task arithmetic (Ilharco et al. 2023; DeMe, Eq. 8)"),
    "uniform_soup": Method(task_arithmetic, "uniform soup (Wortsman et al. 2022)", weighted=False),
    "ties": Method(ties, "TIES (Yadav et al. 2023, arXiv 2306.01708)", ("density",), copies=9),
    "dare": Method(dare, "DARE (Yu et al. 2024, arXiv 2311.03099)", ("density", "seed"), copies=5),
    "per_block": Method(per_block, "task arithmetic (DeMe, Eq. 8) with weights of single blocks", ("blocks",)),
}
EQ_8 = MergeParams()
