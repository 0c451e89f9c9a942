"""Is everything there that will measure the images of a prompt set?"""

from pathlib import Path

from deme_core.inputs import OF_THE_RUN
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import load_extractor
from deme_core.prompts.settings import PromptParams


def check_measures(prompt_set: PromptParams, clip: ClipScoreParams, extractor: str) -> None:
    """Open all that will measure images of a set, so that whatever is missing is named before anything is trained.

    Raises:
        InputError: the CLIP model or the reference is missing or broken, or the reference is of another extractor.
    """
    ClipScore.of(clip)
    if prompt_set.reference is not None and OF_THE_RUN not in (reference := Path(prompt_set.reference)).parents:
        read_features(reference, load_extractor(extractor).sha256)
