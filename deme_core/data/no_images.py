"""Data source `none`: a run that ends with the stage merge_away needs no image, and every other one does."""

import torch

from deme_core.data.images import DataParams, Images
from deme_core.errors import InputError
from deme_core.params import check

NONE = "none"


def read_none(params: DataParams) -> dict[str, Images]:
    """Parts without an image."""
    for name in ("path", "held_out", "captions"):
        value = getattr(params, name)
        check(value is None, f"data.{name}", value, "must be null, since data.source = none has no image")
    side = params.size
    empty = Images(torch.zeros(0, 3, side, side, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    return {"train": empty, "heldout": empty}


def refuse_none(train: Images) -> None:
    """End a stage that works on real images where the training part has none."""
    if not len(train):
        raise InputError(
            "params: data.source = none: there is no image to train on, to search with or to measure by; name the"
            " target merge_away@pretrained, as in `dvc exp run -S experiment=self merge_away@pretrained`, or a source"
            " of images"
        )
