"""Gradients of the denoising loss (Eq. 3, which Eq. 5 is at θ) over spans of timesteps, group of draws by group."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from deme_core.analysis.settings import AnalyseParams
from deme_core.components import Condition
from deme_core.data.examples import Examples
from deme_core.denoising import denoising_loss, regression_target
from deme_core.errors import InputError
from deme_core.merging.methods import block_of
from deme_core.merging.task_vectors import TaskVectors
from deme_core.metrics.moments import Array
from deme_core.parallel import in_order
from deme_core.seeds import step_seed
from deme_core.tensor_files import PIECE, piece_bounds
from deme_core.timesteps import Span

MOSTLY_SIGNAL = 0.8  # ᾱ_t in the middle of a span
Gradient = dict[str, torch.Tensor | None]  # by weight; None where the network does not use it
LARGEST, ELEMENTS = 500, 2**15  # of a batch of small images, which take little memory however many they are


class Batch(NamedTuple):
    """What a denoiser is asked, and what it should say."""

    noisy: torch.Tensor
    t: torch.Tensor
    condition: Condition
    target: torch.Tensor


class Grams(NamedTuple):
    """Products of gradients over R spans in K groups, [R, K, R, K], by block of the network."""

    blocks: dict[str, Array]
    compared: int
    """Weights that they are over."""
    weights: int
    """All weights."""
    spanned: Array
    """Of the gradients' projections onto the span of the vectors that were asked for, over all weights; 0 for none."""

    @property
    def whole(self) -> Array:
        """Of the whole network."""
        return np.sum(list(self.blocks.values()), axis=0)


def gradient_products(
    model: nn.Module, noise_schedule: Any, examples: Examples, spans: Sequence[Span], draws: int, params: AnalyseParams,
    device: torch.device, vectors: TaskVectors | None = None,
) -> Grams:  # fmt: skip
    """The products of the mean gradients of all spans and groups, each group of draws of its own.

    Beside the model and one gradient, on a CPU two a core, `params.coordinates` weights of each mean gradient are in
    memory, and a piece of each vector.

    Args:
        draws: of (x_0, ε, t) for each of them.
        vectors: τ_1, …, τ_J, onto whose span gradients are projected, too. Of a gradient of D weights that leaves J/D
            of the noise, and what the vectors could follow. Layers that θ lacks have no part in it.

    Raises:
        InputError: a gradient is not finite.
    """
    model = model.to(device).eval().requires_grad_(True)
    if params.gradient_checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    named = dict(model.named_parameters())
    picked, scales = _picked(named, params.coordinates, device)

    def gradient(piece: tuple[Span, int]) -> tuple[Gradient, int]:
        """Summed over draws, and how many."""
        sums: Gradient = dict.fromkeys(named)
        seen = 0
        for batch in _draws(noise_schedule, examples, *piece, draws, params.batch_size, device):
            loss = denoising_loss(model(batch.noisy, batch.t, **batch.condition).sample, batch.target).sum()
            for key, value in zip(named, torch.autograd.grad(loss, [*named.values()], allow_unused=True), strict=True):
                so_far = sums[key]
                sums[key] = so_far if value is None else value if so_far is None else so_far + value
            seen += len(batch.t)
        return sums, seen

    rows: dict[str, list[torch.Tensor]] = defaultdict(list)
    along = []
    for sums, seen in in_order(gradient, product(spans, range(params.groups)), device):
        for key, value in sums.items():
            if value is None:  # of what this network does not use
                rows[key].append(torch.zeros(len(picked[key])))
            else:
                rows[key].append((value.flatten()[picked[key]] * (scales[key] / seen)).cpu())
        if vectors is not None:
            along.append(_slopes(sums, vectors) / seen)
    blocks: dict[str, Array] = {}
    shape = (len(spans), params.groups) * 2
    for key, gradients in rows.items():
        gram = _gram(torch.stack(gradients)).reshape(shape)
        if not np.isfinite(gram).all():
            raise InputError(f"the gradient of '{key}' is not finite; look at the curve of the training")
        blocks[block_of(key)] = blocks.get(block_of(key), 0.0) + gram
    order = sorted(blocks, key=place_of)
    spanned = np.zeros(shape) if vectors is None else _spanned(np.stack(along), named, vectors).reshape(shape)
    compared, weights = sum(map(len, picked.values())), sum(value.numel() for value in named.values())
    return Grams({block: blocks[block] for block in order}, compared, weights, spanned)


def _slopes(gradient: Gradient, vectors: TaskVectors) -> Array:
    """⟨∇L, τ⟩ of each vector, [J]."""
    slopes = np.zeros(len(vectors.members))
    for key, value in gradient.items():
        if value is not None:
            for part, taus in _pieces(key, value, vectors):
                slopes += [float(torch.dot(value.flatten()[part], tau.to(value))) for tau in taus]
    return slopes


def _spanned(along: Array, named: Mapping[str, nn.Parameter], vectors: TaskVectors) -> Array:
    """Products [n, n] of n projected gradients, from their slopes [n, J] along vectors; parallel ones count once."""
    pieces = chain.from_iterable(_pieces(key, value, vectors) for key, value in named.items())
    inner = sum(_gram(torch.stack(list(taus))) for _, taus in pieces)
    return along @ np.linalg.pinv(inner, hermitian=True) @ along.T


def _pieces(key: str, value: torch.Tensor, vectors: TaskVectors) -> Iterator[tuple[slice, Iterator[torch.Tensor]]]:
    """Piece by piece: which elements of a weight or its gradient, and those of each vector, on the CPU."""
    assert not vectors.experts, "experts are no task vectors"
    kind = torch.empty(0, dtype=value.dtype)  # of task vectors themselves θ's dtype is all that is asked for
    for start, stop in piece_bounds(value.numel()):
        yield slice(start, stop), vectors.flat(key, start, stop, kind)


def _draws(
    noise_schedule: Any, examples: Examples, span: Span, group: int, count: int, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Batches of draws, the same for every model and independent of those of all other groups.

    t is stratified over the span. Where little noise is on x_t every x_0 and t stand there twice, with ε and with −ε:
    the loss is mostly ε itself then, and most of its noise cancels.
    """
    low, high = span
    signs = (1, -1) if float(noise_schedule.alphas_cumprod[(low + high) // 2]) > MOSTLY_SIGNAL else (1,)
    number = -(-count // len(signs))
    generator = torch.Generator().manual_seed(step_seed("analyse", low, high, group))
    position = torch.arange(number) + torch.rand(number, generator=generator, dtype=torch.float64)
    t = (low + position * (high - low) / number).long().clamp(max=high - 1)
    rounds = -(-number // len(examples))
    index = torch.cat([torch.randperm(len(examples), generator=generator) for _ in range(rounds)])
    size = max(1, max(batch_size, min(LARGEST, ELEMENTS // math.prod(examples.shape))) // len(signs))
    for start in range(0, number, size):
        part = slice(start, min(start + size, number))
        x0, condition = examples.draw(index[part], generator)
        noise = torch.randn(x0.shape, generator=generator)
        x0, when = (torch.cat([value] * len(signs)).to(device) for value in (x0, t[part]))
        noise = torch.cat([sign * noise for sign in signs]).to(device)
        there = {key: torch.cat([value] * len(signs)).to(device) for key, value in condition.items()}
        target = regression_target(noise_schedule, x0, noise, when)
        yield Batch(noise_schedule.add_noise(x0, noise, when), when, there, target)


def _picked(
    named: Mapping[str, nn.Parameter], coordinates: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights of each tensor that are compared, and the factor that makes up for the others in a product.

    All of a network that has no more than `coordinates`; else the same share of each tensor, and one weight at least.
    """
    whole = sum(value.numel() for value in named.values())
    picked, scales = {}, {}
    for key, value in named.items():
        n = value.numel()
        count = n if whole <= coordinates else max(1, round(n * coordinates / whole))
        generator = torch.Generator().manual_seed(step_seed("coordinates", key))
        chosen = torch.arange(n) if count == n else torch.randperm(n, generator=generator)[:count]
        picked[key], scales[key] = chosen.to(device), (n / count) ** 0.5
    return picked, scales


def _gram(rows: torch.Tensor) -> Array:
    """[n, D] -> [n, n] in float64, piece by piece: the parts without bias are small beside those that cancel."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(max(1, PIECE // len(rows)), 1):
        wide = part.double()
        gram += wide @ wide.T
    return gram.numpy()


def place_of(block: str) -> tuple[int, str]:
    """Blocks in the order that they run; what belongs to none comes last."""
    return next((k for k, stage in enumerate(("down", "mid", "up")) if block.startswith(stage)), 3), block
