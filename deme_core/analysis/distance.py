"""The Fréchet distance of any denoiser's images to the training part, as the search measures it."""

from dataclasses import dataclass

import torch

from deme_core.analysis.run_files import Run
from deme_core.components import is_text_to_image
from deme_core.denoising import Denoise
from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.sampling.generate import Sampler
from deme_core.seeds import SeedBlock


@dataclass(frozen=True)
class Distance:
    """Of images from the seeds that the search sees first, never from those of the evaluation."""

    sampler: Sampler
    extractor: Extractor
    reference: FrechetReference
    images: int

    @classmethod
    def of(cls, run: Run, device: torch.device) -> "Distance":
        """The run's sampler and extractor.

        Raises:
            InputError: the images would need prompts.
        """
        if is_text_to_image(run.pretrained):
            raise InputError(
                f"params: analyse.distance_images = {run.params.distance_images}: a text-to-image model is sampled with"
                " prompts, which this figure has not; set it to 0"
            )
        extractor = load_extractor(run.extractor)
        features = read_features(run.reference / "train.safetensors", extractor.sha256)
        sampler = Sampler.of(run.pretrained, run.sampler, device)
        return cls(sampler, extractor, FrechetReference(Moments.of(features)), run.params.distance_images)

    def __call__(self, denoise: Denoise) -> float:
        """The distance of a denoiser's images."""
        images = self.sampler.generate(denoise, SeedBlock.SEARCH, 0, self.images)
        return self.reference.distance(Moments.of(self.extractor(images)))
