"""Is everything there that will measure the images of prompt sets?"""

from collections.abc import Iterable
from pathlib import Path

from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import load_extractor
from deme_core.prompts.settings import PromptParams

MADE_BY_THE_RUN = Path("data/reference")  # by the stage of that name


def check_measures(sets: Iterable[PromptParams], clip: ClipScoreParams, extractor: str) -> None:
    """Open all that will measure images of these sets, so that what lacks is said before anything is trained.

    Raises:
        InputError: the CLIP model or a reference is missing or broken, or the reference is of another extractor.
    """
    ClipScore.of(clip)
    references = [Path(own.reference) for own in sets if own.reference is not None]
    if given := [reference for reference in references if MADE_BY_THE_RUN not in reference.parents]:
        sha256 = load_extractor(extractor).sha256
        for reference in given:
            read_features(reference, sha256)
