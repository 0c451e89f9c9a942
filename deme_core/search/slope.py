"""The gradient of the Fréchet distance over merge weights, through the whole sampler (FD-loss, arXiv 2604.28190).

Two passes. The first samples all images without a graph: moments of their features, and from these in closed form what
each feature vector adds to the distance. The second samples block by block again, with a graph through steps whose
network calls are checkpointed (their activations are computed anew in the backward pass): beside the x_t of one block
its memory grows neither with the images nor with the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.sampling.generate import Sampler
from deme_core.search.objective import MergedModel, Scorer, geometric_mean
from deme_core.seeds import SeedBlock

FLOOR = 1e-7  # of the largest eigenvalue: what features in float32 tell from 0
PER_FEATURE = 10  # images: fewer leave a covariance that is mostly luck, and its inverse root more so


class SlopedReference(FrechetReference):
    """A reference whose distance has a gradient; its root is factored once."""

    def slopes(self, features: np.ndarray) -> np.ndarray:
        """d distance / d features, both [n, D], float64.

        With R = S_r^{1/2} and n features of mean μ and covariance S (ddof = 1): d/dμ = 2(μ − μ_r) and
        d/dS = I − R (R S R)^{-1/2} R = G, hence d/df_k = 2(μ − μ_r) / n + 2 G (f_k − μ) / (n − 1). Eigenvalues of R S R
        below FLOOR of the largest count as that: features that never vary, as those of constant pixels, make zeros.
        """
        moments = Moments.of(features)
        values, vectors = np.linalg.eigh(self._root @ moments.covariance @ self._root)
        turned = self._root @ vectors
        inner = np.eye(len(values)) - turned / np.sqrt(np.maximum(values, FLOOR * values.max())) @ turned.T
        n, offset = moments.n, moments.mean - self._mean
        return 2 * offset / n + 2 * (features - moments.mean) @ inner / (n - 1)


def straight_through(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1] -> grey levels 0 … 255 as a trial scores them, rounded; the gradient passes as if they were not."""
    levels = (images / 2 + 0.5).clamp(0, 1) * 255
    return levels + (levels.round() - levels).detach()


@dataclass(frozen=True)
class DistanceSlope:
    """The Fréchet score of merged images, and its gradient over w: (w, seed block, first image, images) -> both."""

    model: MergedModel
    sampler: Sampler
    scorer: Scorer

    def __call__(
        self, weights: Sequence[float], block: SeedBlock, first: int, images: int
    ) -> tuple[float, list[float]]:
        """The score is that of `make_objective` for the same images.

        Raises:
            InputError: too few images for so many features.
        """
        scorers = (self.scorer, *self.scorer.beside)
        check_images(images, [(scorer.extractor.name, scorer.reference.shape[1]) for scorer in scorers])
        merged = self.model.load(weights)
        pixels = self.sampler.images(single(merged, self.sampler.device), block, first, images)
        seen = [scorer.extractor([pixels]).astype(np.float64) for scorer in scorers]
        targets = [SlopedReference(Moments.of(scorer.reference)) for scorer in scorers]
        distances = [target.distance(Moments.of(features)) for target, features in zip(targets, seen, strict=True)]
        score = geometric_mean([(scorer.extractor.name, d) for scorer, d in zip(scorers, distances, strict=True)])
        shares = [score / (len(scorers) * d) for d in distances]  # of a geometric mean; 1 of one distance
        slopes = [
            share * target.slopes(features) for share, target, features in zip(shares, targets, seen, strict=True)
        ]
        return score, self.model.pulled(self._backward(merged, block, range(first, first + images), slopes))

    def _backward(
        self, merged: Any, block: SeedBlock, wanted: range, slopes: Sequence[np.ndarray]
    ) -> dict[str, torch.Tensor]:
        """Σ over the wanted images of slope · feature, differentiated by every tensor of the merged model."""
        leaves = {key: value.detach().requires_grad_() for key, value in merged.state_dict().items()}
        total = {key: torch.zeros_like(value) for key, value in leaves.items()}

        def call(x: torch.Tensor, t: torch.Tensor, condition: dict[str, Any]) -> torch.Tensor:
            return functional_call(merged, leaves, (x, t), condition).sample

        def denoise(x: torch.Tensor, t: torch.Tensor, **condition: Any) -> torch.Tensor:
            return checkpoint(call, x, t.to(x.device), condition, use_reentrant=False)

        size = self.sampler.params.block
        for start in range(wanted.start - wanted.start % size, wanted.stop, size):
            begun = self.sampler.begun(denoise, block, range(start, start + size))
            x, _ = self.sampler.denoised(*begun)
            here = slice(max(wanted.start - start, 0), min(wanted.stop - start, size))
            levels = straight_through(self.sampler.decode(x))[here].cpu()
            rows = slice(start + here.start - wanted.start, start + here.stop - wanted.start)
            whole: Any = 0.0
            for scorer, slope in zip((self.scorer, *self.scorer.beside), slopes, strict=True):
                found = scorer.extractor.forward(levels)
                whole = whole + (found.double() * torch.from_numpy(slope[rows]).to(found.device)).sum()
            parts = torch.autograd.grad(whole, list(leaves.values()), allow_unused=True)
            for key, part in zip(leaves, parts, strict=True):
                if part is not None:
                    total[key] += part
        return total


def check_images(images: int, features: Sequence[tuple[str, int]]) -> None:
    """Refuse a gradient on fewer images than its features need.

    Args:
        features: (extractor, number of its features).
    """
    name, most = max(features, key=lambda pair: pair[1])
    if images < PER_FEATURE * most:
        raise InputError(
            f"params: merge_search.images = {images}: the gradient of a distance needs {PER_FEATURE} images a feature,"
            f" and extractor {name} has {most}; set merge_search.images={PER_FEATURE * most} or more"
        )
