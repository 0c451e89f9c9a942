"""What a search minimises: the Fréchet distance of the merged model's images to the training part."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.merging.merge import merge_tensor
from deme_core.merging.task_vectors import TaskVectors
from deme_core.metrics.features import Extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.projection import fold_projections, insert_projections
from deme_core.sampling.generate import Sampler, single
from deme_core.seeds import SeedBlock

Objective = Callable[[Sequence[float], SeedBlock, int, int], float]


def frechet_objective(
    pretrained: Path, vectors: list[Path], sampler: Sampler, extractor: Extractor, reference: Moments
) -> Objective:
    """f(w, seed block, first image, number of images), the same noise for every w.

    Merging happens in memory, in one model that is kept: a trial reads no file. The score is the one that the
    stages merge, sample and evaluate give for the same weights and seeds, images rounded to uint8 included.
    """
    source = denoiser_dir(pretrained)
    tau = TaskVectors.open(source, vectors)
    theta = {key: tau.base_tensor(key) for key in tau.keys()}  # noqa: SIM118 (keys that θ lacks come last)
    taus = {key: tau.tensors(key) for key in theta}
    model = load_denoiser(source)
    released = len(theta) != len(model.state_dict())
    if released:
        insert_projections(model, "released")
    target = FrechetReference(reference)

    def objective(weights: Sequence[float], block: SeedBlock, first: int, images: int) -> float:
        model.load_state_dict({key: merge_tensor(theta[key], taus[key], weights) for key in theta})
        merged = model
        if released:  # the merged pipeline folds what folds, so its images are those of the folded model
            merged = copy.deepcopy(model)
            fold_projections(merged)
        denoise = single(merged, sampler.device)
        return target.distance(Moments.of(extractor(sampler.generate(denoise, block, first, images))))

    return objective
