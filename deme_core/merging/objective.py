"""What a search minimises: the Fréchet distance of the merged model's images to the training part."""

from collections.abc import Callable, Sequence
from pathlib import Path

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.merging.merge import merge_tensor
from deme_core.merging.task_vectors import TaskVectors
from deme_core.metrics.features import Extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.sampling.generate import Sampler, single
from deme_core.seeds import SeedBlock

Objective = Callable[[Sequence[float], SeedBlock, int], float]


def frechet_objective(
    pretrained: Path, vectors: list[Path], sampler: Sampler, extractor: Extractor, reference: Moments
) -> Objective:
    """f(w, seed block, number of images), the same noise for every w.

    Merging happens in memory, in one model that is kept: a trial reads no file. The score is the one that the
    stages merge, sample and evaluate give for the same weights and seeds, images rounded to uint8 included.
    """
    source = denoiser_dir(pretrained)
    tau = TaskVectors.open(source, vectors)
    theta = {key: tau.base_tensor(key) for key in tau.keys()}  # noqa: SIM118 (keys that θ lacks come last)
    taus = {key: tau.tensors(key) for key in theta}
    model = load_denoiser(source)
    if len(theta) != len(model.state_dict()):
        from deme_core.projection import insert_projections

        insert_projections(model, "released")
    denoise = single(model, sampler.device)
    target = FrechetReference(reference)

    def objective(weights: Sequence[float], block: SeedBlock, images: int) -> float:
        model.load_state_dict({key: merge_tensor(theta[key], taus[key], weights) for key in theta})
        return target.distance(Moments.of(extractor(sampler.generate(denoise, block, 0, images))))

    return objective
