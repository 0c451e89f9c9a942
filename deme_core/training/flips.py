"""Whether a training on latents may flip them, said before anything is encoded."""

from typing import Any

from deme_core.data.encode import EncodeParams
from deme_core.params import check, section
from deme_core.training.settings import TrainingParams


def check_flips(params: dict[str, Any]) -> None:
    """Refuse flips of a text-to-image pipeline's latents that the stage encode leaves out.

    Args:
        params: params.yaml.
    """
    training = section(params, "finetune_range", TrainingParams)
    check(
        section(params, "encode", EncodeParams).flips or not training.horizontal_flip,
        "finetune_range.horizontal_flip", True,
        "the latents would be encoded without flips, and a flipped latent is not the latent of the flipped image; set"
        " encode.flips=true",
    )  # fmt: skip
