"""Encoded images of any kind and size -> squares of one size; what cannot be read is named."""

import io
import struct
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from deme_core.data.images import DataParams, Images
from deme_core.errors import InputError
from deme_core.seeds import step_seed

NAMED = 10  # unreadable images that a message names; it counts the rest
# What Pillow raises at damaged files of its many formats.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def decode_all(
    encoded: Iterable[tuple[str, Callable[[], bytes]]],
    count: int,
    params: DataParams,
    captions: Sequence[tuple[str, ...]] | None = None,
) -> Images:
    """The squares of `count` images, given as pairs of a name and a function that reads the bytes of its file.

    The label of each is -1.

    Args:
        captions: those of each image; an image that is left out takes its own with it.

    Raises:
        InputError: images are unreadable and `data.unreadable` is `stop`, or none is readable.
    """
    pixels = np.empty((count, 1 if params.grey else 3, params.size, params.size), np.uint8)
    broken: list[str] = []
    kept: list[int] = []
    for k, (name, read) in enumerate(encoded):
        try:
            pixels[len(kept)] = to_square(read(), params, k)
            kept.append(k)
        except UNREADABLE as error:
            broken.append(f"{name} ({error})")
    if broken:
        names = "; ".join(broken[:NAMED]) + (f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else "")
        if params.unreadable == "stop" or not kept:
            raise InputError(
                f"{len(broken)} of {count} images are unreadable: {names}; remove them, write them again, or leave them"
                " out with data.unreadable=skip"
            )
        print(f"left out {len(broken)} of {count} images, which are unreadable: {names}")
    labels = torch.full((len(kept),), -1, dtype=torch.int64)
    own = None if captions is None else tuple(captions[k] for k in kept)
    return Images(torch.from_numpy(pixels[: len(kept)]), labels, own)


def to_square(data: bytes, params: DataParams, index: int) -> np.ndarray:
    """uint8 [C, size, size] of one encoded image: upright, short side to `data.size`, and the longer side cropped.

    A random crop is a function of `index` alone.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
        upright = ImageOps.exif_transpose(image).convert("L" if params.grey else "RGB")
    centre = (0.5, 0.5)
    if params.crop == "random":
        u, v = torch.rand(2, generator=torch.Generator().manual_seed(step_seed("crop", index))).tolist()
        centre = (u, v)
    square = ImageOps.fit(upright, (params.size,) * 2, Image.Resampling[params.resize.upper()], centering=centre)
    return np.asarray(square).reshape(params.size, params.size, -1).transpose(2, 0, 1)
