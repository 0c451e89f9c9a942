"""The table of data sets: a name -> a function that reads all images. A new data set is one row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from deme_core.data.idx import read_idx
from deme_core.data.images import DataParams, Images, split
from deme_core.errors import InputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def read_digits(params: DataParams) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 with 17 grey levels (UCI Optical Recognition, Alpaydin 1998)."""
    from sklearn.datasets import load_digits

    if params.size != 8:
        raise InputError(f"params: data.size = {params.size}: the digits are 8×8; set data.size=8")
    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    return Images(pixels, torch.from_numpy(digits.target.astype(np.int64)))


def read_folder(params: DataParams) -> Images:
    """Every image file below `data.path`, as RGB: short side to `data.size` (bilinear), centre crop."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    root = Path(params.path or "")
    if params.path is None or not root.is_dir():
        raise InputError(f"params: data.path = {params.path!r}: source 'folder' needs an existing folder of images")
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{root}: no image found; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    pixels = np.empty((len(files), 3, params.size, params.size), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"{file}: more than 8 bits a channel (mode {image.mode}); save it with 8 bits")
                upright = ImageOps.exif_transpose(image).convert("RGB")
                square = ImageOps.fit(upright, (params.size, params.size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{file}: unreadable image ({error}); remove it or write it again") from None
        row[:] = np.asarray(square).transpose(2, 0, 1)
    return Images(torch.from_numpy(pixels), torch.full((len(files),), -1, dtype=torch.int64))


# A source that has a test split of its own gives both parts when `data.held_out` is null.
SOURCES: dict[str, Callable[[DataParams], Images | dict[str, Images]]] = {
    "digits": read_digits,
    "idx": read_idx,
    "folder": read_folder,
}


def read_parts(params: DataParams) -> dict[str, Images]:
    """The parts `train` and `heldout` of the data set that `params` names."""
    if params.source not in SOURCES:
        raise InputError(f"params: data.source = {params.source!r}: known sources are {', '.join(SOURCES)}")
    images = SOURCES[params.source](params)
    if isinstance(images, dict):
        return images
    if params.held_out is None:
        raise InputError(
            f"params: data.held_out = None: source '{params.source}' has no test split of its own; give a share, as 0.1"
        )
    return split(images, params.held_out)
