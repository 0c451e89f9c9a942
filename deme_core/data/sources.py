"""The table of data sets: a name -> a function that reads all images, and what it needs. A new data set is one row."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from deme_core.data.files import read_folder, read_zip
from deme_core.data.idx import read_idx
from deme_core.data.images import DataParams, Images, split
from deme_core.data.no_images import NONE, read_none
from deme_core.data.tables import read_hub, read_parquet
from deme_core.errors import InputError
from deme_core.params import check


def read_digits(params: DataParams) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 with 17 grey levels (UCI Optical Recognition, Alpaydin 1998)."""
    from sklearn.datasets import load_digits

    if params.size != 8:
        raise InputError(f"params: data.size = {params.size}: the digits are 8×8; set data.size=8")
    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    return Images(pixels, torch.from_numpy(digits.target.astype(np.int64)))


def read_digits_t2i(params: DataParams) -> Images:
    """The same digits enlarged to `data.size` by the filter `data.resize`, each with its captions."""
    from PIL import Image

    from deme_core.data.digit_captions import captions_of_digits

    if params.size < 8:
        raise InputError(f"params: data.size = {params.size}: the digits are enlarged from 8×8; set data.size=32")
    digits = read_digits(replace(params, size=8))
    side, interpolation = (params.size,) * 2, Image.Resampling[params.resize.upper()]
    large = [np.asarray(Image.fromarray(image[0].numpy()).resize(side, interpolation)) for image in digits.pixels]
    captions = captions_of_digits(digits.pixels, digits.labels)
    return Images(torch.from_numpy(np.stack(large))[:, None], digits.labels, captions)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A row of SOURCES; with it goes what `make check` looks for."""

    read: Callable[[DataParams], Images | dict[str, Images]]
    """All images; those of a source that has a test split of its own in two parts when `data.held_out` is null."""
    put: str | None = None
    """What to put at `data.path`, where that is a path; None: a hub id, or nothing."""
    comes: str | None = None
    """What comes with an installation, or what is not needed."""
    packages: tuple[tuple[str, str], ...] = ()
    """Optional packages, and the modules that they bring."""
    grey: bool = False
    """Whether it has one channel, whatever `data.grey` says."""
    captions: bool = False
    """Whether it has captions, whatever `data.captions` says."""


DATASETS = (("datasets", "datasets"),)
DIGITS = "scikit-learn's digits"
IDX = "put the idx files there; Fashion-MNIST: apt-get install dataset-fashion-mnist"
SOURCES = {
    "digits": Source(read=read_digits, comes=DIGITS, grey=True),
    "digits_t2i": Source(read=read_digits_t2i, comes=DIGITS, grey=True, captions=True),
    "idx": Source(read=read_idx, put=IDX, grey=True),
    "folder": Source(read=read_folder, put="put the images there"),
    "zip": Source(read=read_zip, put="put the archive there"),
    "parquet": Source(read=read_parquet, put="put the parquet file(s) there", packages=DATASETS),
    "hub": Source(read=read_hub, packages=DATASETS),
    NONE: Source(read=read_none, comes="no images"),
}


def image_shape(params: DataParams) -> tuple[int, int, int] | None:
    """(C, H, W) of the images that `params` name; None where there are none."""
    if params.source == NONE:
        return None
    return 1 if params.grey or SOURCES[params.source].grey else 3, params.size, params.size


def has_captions(params: DataParams) -> bool:
    """Whether the images that `params` name have captions."""
    return params.captions is not None or SOURCES[params.source].captions


def read_parts(params: DataParams) -> dict[str, Images]:
    """The parts of the data set that `params` names: `train`, `validation`, `heldout`; the last may be empty.

    Raises:
        InputError: the source is unknown, cannot be read, or has too few images for the parts.
    """
    if params.source not in SOURCES:
        raise InputError(f"params: data.source = {params.source!r}: known sources are {', '.join(SOURCES)}")
    images = SOURCES[params.source].read(params)
    if isinstance(images, dict):
        train, heldout = images["train"], images["heldout"]
    elif params.held_out is None:
        raise InputError(
            f"params: data.held_out = None: source '{params.source}' has no test split of its own; give a share, as 0.1"
        )
    else:
        train, heldout = split(images, params.held_out, "data.held_out")
    heldout, validation = split(heldout, params.validation if len(heldout) else 0, "data.validation")
    check(
        len(validation) != 1, "data.validation", params.validation,
        f"leaves one of {len(heldout) + 1} held-out images for choices, of which there is no interval; take a larger"
        " share, hold more out with data.held_out, or set it to 0",
    )  # fmt: skip
    return {"train": train, "validation": validation, "heldout": heldout}
