"""What a search makes small: a distance of the merged model's images to the training part, or its denoising loss."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.merging.loss import DenoisingLoss
from deme_core.merging.methods import block_of, merge_tensor
from deme_core.merging.task_vectors import TaskVectors
from deme_core.metrics.features import Extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.kernel import KernelReference
from deme_core.metrics.moments import Moments
from deme_core.projection import fold_projections, insert_projections
from deme_core.sampling.generate import Sampler, single
from deme_core.seeds import SeedBlock

Objective = Callable[[Sequence[float], SeedBlock, int, int], float]
Distance = Callable[[np.ndarray], float]


class MergedModel:
    """θ + Σ w_i τ_i in memory, in one model that is kept: a trial reads no file.

    Weights are N that all tensors share, or N for each of `blocks`, block after block.
    """

    def __init__(self, pretrained: Path, vectors: list[Path], *, per_block: bool = False) -> None:
        source = denoiser_dir(pretrained)
        tau = TaskVectors.open(source, vectors)
        self.theta = {key: tau.base_tensor(key) for key in tau.keys()}  # noqa: SIM118 (keys that θ lacks come last)
        self.taus = {key: tau.tensors(key) for key in self.theta}
        found = {key: block_of(key) if per_block else "" for key in self.theta}
        self.blocks = sorted({*found.values()} - {""})
        start = {block: b * len(vectors) for b, block in enumerate(self.blocks)}
        self.own = {key: slice(at := start.get(found[key], 0), at + len(vectors)) for key in self.theta}
        """Key -> which of the weights are its own."""
        self.groups = max(1, len(self.blocks))
        self.weights = self.groups * len(vectors)
        """How many weights there are in all."""
        self.model = load_denoiser(source)
        self.released = len(self.theta) != len(self.model.state_dict())
        if self.released:
            insert_projections(self.model, "released")

    def at(self, weights: Sequence[float]) -> nn.Module:
        """The merged model; the next call changes it."""
        self.model.load_state_dict({
            key: merge_tensor(theta, self.taus[key], weights[self.own[key]]) for key, theta in self.theta.items()
        })  # fmt: skip
        if not self.released:
            return self.model
        merged = copy.deepcopy(self.model)  # the merged pipeline folds what folds, so its images are the folded model's
        fold_projections(merged)
        return merged


def frechet(reference: np.ndarray) -> Distance:
    """Fréchet distance of features [n, D] to the reference's [m, D]."""
    target = FrechetReference(Moments.of(reference))
    return lambda features: target.distance(Moments.of(features))


def kid(reference: np.ndarray) -> Distance:
    """Kernel distance of features [n, D] to the reference's [m, D]."""
    return KernelReference(reference).distance


DISTANCES: dict[str, Callable[[np.ndarray], Distance]] = {"frechet": frechet, "kid": kid}
OBJECTIVES = (*DISTANCES, "loss")


def image_objective(model: MergedModel, sampler: Sampler, extractor: Extractor, distance: Distance) -> Objective:
    """f(w, seed block, first image, number of images), the same noise for every w.

    The images are those that the stages merge and sample give for the same weights and seeds, rounded to uint8; the
    Fréchet distance is that of evaluate for them, its KID is a mean over blocks.
    """

    def objective(weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        denoise = single(model.at(weights), sampler.device)
        return distance(extractor(sampler.generate(denoise, block, first, images)))

    return objective


def make_objective(
    name: str, loss: "MergedLoss", sampler: Sampler, extractor: Extractor, reference: np.ndarray
) -> Objective:
    """A row of OBJECTIVES; `reference` holds the features [m, D] of the training part."""
    if name == "loss":
        return loss.value
    return image_objective(loss.model, sampler, extractor, DISTANCES[name](reference))


class MergedLoss:
    """The denoising loss of the merged model as a function of w: `value` is an Objective."""

    def __init__(self, model: MergedModel, loss: DenoisingLoss) -> None:
        self.model, self.loss = model, loss

    def value(self, weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        """f(w, seed block, first draw, number of draws)."""
        return self.loss.value(self.model.at(weights), block, first, images)

    def gradient(
        self, weights: Sequence[float], block: SeedBlock, first: int, images: int
    ) -> tuple[float, list[float]]:
        """The same loss, and its gradient over w through θ + Σ w_i τ_i."""
        device, taus = self.loss.device, self.model.taus
        w = torch.tensor(weights, dtype=torch.float32, device=device, requires_grad=True)
        state = {
            key: theta.to(device)
            + sum(wi * tau.to(device) for wi, tau in zip(w[self.model.own[key]], taus[key], strict=True))
            for key, theta in self.model.theta.items()
        }
        value = self.loss.of_state(self.model.model, state, block, first, images)
        return float(value.detach()), torch.autograd.grad(value, w)[0].tolist()
