"""What a search makes small: scores of the merged model's images, or its denoising loss."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.data.examples import Examples
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.merging.methods import block_of, merge_tensor
from deme_core.merging.task_vectors import TaskVectors
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.kernel import KernelReference
from deme_core.metrics.moments import Moments
from deme_core.processes import partial_state, shared
from deme_core.projection import fold_projections, insert_projections
from deme_core.sampling.generate import Sampler
from deme_core.search.loss import DenoisingLoss
from deme_core.seeds import SeedBlock

Objective = Callable[[Sequence[float], SeedBlock, int, int], float]
Slope = Callable[[Sequence[float], SeedBlock, int, int], tuple[float, list[float]]]
"""The same, and its gradient over w."""
ImageScore = Callable[[Iterable[torch.Tensor], Sequence[str]], float]
"""(images as uint8 [n, C, H, W], their texts, none of an unconditional model) -> what is made small."""


class MergedModel:
    """θ + Σ w_i τ_i in memory, in one model that is kept; θ and all τ_i are maps that processes of a machine share.

    Weights are N that all tensors share, or N for each of `blocks`, block after block.
    """

    def __init__(
        self, pretrained: Path, vectors: list[Path], *, per_block: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        """`dtype` is that of the merges that are written, to which weights are rounded; None: θ's, key by key."""
        source = denoiser_dir(pretrained)
        self.theta, self.taus = TaskVectors.open(source, vectors).mapped()
        self.dtypes = {key: dtype or theta.dtype for key, theta in self.theta.items()}
        found = {key: block_of(key) if per_block else "" for key in self.theta}
        self.blocks = sorted({*found.values()} - {""})
        start = {block: b * len(vectors) for b, block in enumerate(self.blocks)}
        self.slices = {key: slice(at := start.get(found[key], 0), at + len(vectors)) for key in self.theta}
        """Key -> which of the weights are its own."""
        self.groups = max(1, len(self.blocks))
        self.weights = self.groups * len(vectors)
        """How many weights there are in all."""
        self.model = load_denoiser(source)
        self.released = len(self.theta) != len(self.model.state_dict())
        if self.released:
            insert_projections(self.model, "released")

    def load(self, weights: Sequence[float]) -> nn.Module:
        """The merged model, with projections that are not folded; the next call changes it."""
        self.model.load_state_dict({
            key: merge_tensor(theta, self.taus[key], weights[self.slices[key]], self.dtypes[key])
            for key, theta in self.theta.items()
        })  # fmt: skip
        return self.model

    def pulled(self, slopes: Mapping[str, torch.Tensor]) -> list[float]:
        """The gradient over w of what has these slopes over θ' = θ + Σ w_i τ_i: Σ <dL/dθ', τ_i> over its tensors."""
        gradient = np.zeros(self.weights)
        for key, slope in slopes.items():
            taus = (tau.to(slope.device) for tau in self.taus[key])
            gradient[self.slices[key]] += [float((slope * tau).sum(dtype=torch.float64)) for tau in taus]
        return gradient.tolist()

    def at(self, weights: Sequence[float]) -> nn.Module:
        """The merged model as the pipeline writes it; the next call changes it."""
        self.load(weights)
        if not self.released:
            return self.model
        merged = copy.deepcopy(self.model)  # the merged pipeline folds what folds, so its images are the folded model's
        fold_projections(merged)
        merged.load_state_dict({key: value.to(self.dtypes[key]) for key, value in merged.state_dict().items()})
        return merged


@dataclass(frozen=True)
class Scorer:
    """What images are scored with."""

    extractor: Extractor
    reference: np.ndarray
    """Features [m, D] of the training part."""
    clip: ClipScore | None = None
    """Of `clip_score` alone."""
    beside: tuple["Scorer", ...] = ()
    """Of `frechet` alone: more extractors, with their features of the same part."""

    @classmethod
    def of(
        cls, objective: str, extractor: str, reference: Path, clip: ClipScoreParams, beside: Iterable["Scorer"] = ()
    ) -> "Scorer":
        """The extractor in the folder of this name, the features in a file, and CLIP if the objective asks for it."""
        loaded = load_extractor(extractor)
        features, wanted = read_features(reference, loaded.sha256), "clip_score" in score_weights(objective)
        return cls(loaded, features, ClipScore.of(clip) if wanted else None, tuple(beside))

    @classmethod
    def on(cls, extractor: str, pixels: torch.Tensor) -> "Scorer":
        """The extractor in the folder of this name, and its features of images, uint8 [m, C, H, W]."""
        loaded = load_extractor(extractor)
        return cls(loaded, loaded([pixels]))

    @property
    def identity(self) -> list[str | None]:
        """What scores depend on beside images and reference."""
        clip = None if self.clip is None else self.clip.name
        return [self.extractor.sha256, clip, *(scorer.extractor.sha256 for scorer in self.beside)]


def frechet(scorer: Scorer) -> ImageScore:
    """Fréchet distance to the training part; of several extractors the geometric mean."""
    targets = [(one.extractor, FrechetReference(Moments.of(one.reference))) for one in (scorer, *scorer.beside)]

    def score(images: Iterable[torch.Tensor], texts: Sequence[str]) -> float:
        seen = list(images) if scorer.beside else images
        return geometric_mean(
            [(extractor.name, target.distance(Moments.of(extractor(seen)))) for extractor, target in targets]
        )

    return score


def geometric_mean(distances: Sequence[tuple[str, float]]) -> float:
    """Of (extractor, distance) of several extractors; of one the distance itself.

    Its ratio to that of w = 0 on the same noise is the geometric mean of their ratios, by which judges are summed up,
    too: no extractor counts more for the size of its numbers, and rounds and intervals take it as they take a distance.

    Raises:
        InputError: one of several is not above 0.
    """
    for name, distance in distances:
        if len(distances) > 1 and not distance > 0:
            raise InputError(
                f"extractor {name}: a trial's Fréchet distance is {distance:g}, and a geometric mean is one of numbers"
                " above 0; raise merge_search.images, or take this extractor out of merge_search.extractors"
            )
    return math.prod(distance for _, distance in distances) ** (1 / len(distances))


def kid(scorer: Scorer) -> ImageScore:
    """Kernel distance to the training part."""
    distance = KernelReference(scorer.reference).distance
    return lambda images, texts: distance(scorer.extractor(images))


def clip_score(scorer: Scorer) -> ImageScore:
    """100 minus the mean CLIP score, so that smaller is better and no value is negative."""
    if (clip := scorer.clip) is None:
        raise ValueError("clip_score needs a CLIP model")
    return lambda images, texts: 100 - float(clip(images, texts).mean())


SCORES: dict[str, Callable[[Scorer], ImageScore]] = {"frechet": frechet, "kid": kid, "clip_score": clip_score}
LOSS = "loss"


def score_weights(objective: str) -> dict[str, float]:
    """Score -> its weight: `frechet + 0.1*clip_score` -> {frechet: 1, clip_score: 0.1}; none for `loss`.

    Raises:
        InputError: an unknown score, one named twice, a weight that is no positive number, or the loss in a sum.
    """
    found: dict[str, float] = {}
    for term in [] if objective == LOSS else objective.split("+"):
        weight, times, name = term.rpartition("*")
        try:
            value = float(weight) if times else 1.0
        except ValueError:
            value = math.nan
        if (name := name.strip()) not in SCORES or name in found or not 0 < value < math.inf:
            raise InputError(
                f"params: merge_search.objective = {objective!r}: must be one of {', '.join(SCORES)}, a sum of them"
                f" with positive weights, as frechet+0.1*clip_score, or {LOSS}"
            )
        found[name] = value
    return found


def relative(objective: str) -> bool:
    """Whether a change is a ratio: of distances and losses, which are 0 where nothing is wrong.

    A KID may lie below 0, and 100 − the CLIP score is 0 for no image: their changes are differences.
    """
    return not {"kid", "clip_score"} & score_weights(objective).keys()


def make_objective(
    name: str, loss: "MergedLoss", sampler: Sampler, scorer: Scorer, *, alone: bool = False
) -> Objective:  # fmt: skip
    """f(w, seed block, first image, number of images), the same noise for every w.

    The name is one that `score_weights` reads. The images are those that the stages merge and sample give for the same
    weights and seeds, rounded to uint8; the Fréchet distance is that of evaluate for them, its KID is a mean over
    blocks. Each is scored against its own prompt.

    Args:
        alone: whether each process makes all images by itself, instead of its share of them.
    """
    if name == LOSS:
        return loss.value
    scores = [(weight, SCORES[key](scorer)) for key, weight in score_weights(name).items()]

    def objective(w: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        denoise = single(loss.model.at(w), sampler.device)

        def merged(t: int) -> str:
            return f"the merge with w = ({', '.join(f'{weight:g}' for weight in w)})"

        generated: Iterable[torch.Tensor] = sampler.generate(denoise, block, first, images, merged)
        if partial_state().num_processes > 1 and not alone:
            whole = sampler.params.block
            generated = [shared(lambda at, n: sampler.images(denoise, block, first + at, n, merged), images, whole)]
        elif len(scores) > 1:
            generated = list(generated)
        texts = sampler.conditions.texts(range(first, first + images))
        return sum(weight * score(generated, texts) for weight, score in scores)

    return objective


class MergedLoss:
    """The denoising loss of the merged model as a function of w: `value` is an Objective."""

    def __init__(self, model: MergedModel, loss: DenoisingLoss) -> None:
        self.model, self.loss = model, loss

    @classmethod
    def of(
        cls, pretrained: Path, vectors: list[Path], examples: Examples, sampler: Sampler, *, per_block: bool = False,
        dtype: torch.dtype | None = None,
    ) -> "MergedLoss":  # fmt: skip
        """Of a pipeline and files of task vectors, on the sampler's device."""
        denoising = DenoisingLoss(sampler.noise_schedule, examples, sampler.device)
        return cls(MergedModel(pretrained, vectors, per_block=per_block, dtype=dtype), denoising)

    def value(self, weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        """f(w, seed block, first draw, number of draws)."""
        return self.loss.value(self.model.at(weights), block, first, images)

    def gradient(
        self, weights: Sequence[float], block: SeedBlock, first: int, images: int
    ) -> tuple[float, list[float]]:
        """The same loss, and its gradient over w."""
        value, slopes = self.loss.gradient(self.model.load(weights), block, first, images)
        return value, self.model.pulled(slopes)
