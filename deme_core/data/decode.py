"""Encoded images of any kind and size -> squares of one size; what cannot be read is named."""

import io
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from deme_core.data.images import DataParams, Images, new_pixels
from deme_core.errors import InputError
from deme_core.seeds import step_seed

AHEAD = 256  # images that are in memory at once, encoded and as squares
NAMED = 10  # unreadable images that a message names; it counts the rest
IN_MEMORY = r" <_io\.BytesIO[^>]*>"  # how Pillow names what it read
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
    pixels = new_pixels((count, 1 if params.grey else 3, params.size, params.size))
    broken: list[str] = []
    kept: list[int] = []
    rows = pixels.numpy()  # the same memory
    for k, (name, square) in enumerate(tqdm(_squares(encoded, params), desc="images", total=count, unit="image")):
        if isinstance(square, Exception):
            broken.append(f"{name} ({re.sub(IN_MEMORY, '', str(square))})")
        else:
            rows[len(kept)] = square
            kept.append(k)
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
    return Images(pixels[: len(kept)], labels, own)


def _squares(
    encoded: Iterable[tuple[str, Callable[[], bytes]]], params: DataParams
) -> Iterator[tuple[str, np.ndarray | Exception]]:
    """Names and squares in order, or what made an image unreadable.

    Images are decoded in threads, but read in this one: an open ZIP archive promises nothing to several.
    """

    def decode(k: int, data: bytes | Exception) -> np.ndarray | Exception:
        try:
            return data if isinstance(data, Exception) else to_square(data, params, k)
        except UNREADABLE as error:
            return error

    Image.init()  # Pillow loads its formats when first asked, which two threads must not do at once
    numbered = enumerate(encoded)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(numbered, AHEAD)):
            squares = pool.map(decode, [k for k, _ in some], (_read(read) for _, (_, read) in some))
            yield from zip((name for _, (name, _) in some), squares, strict=True)


def _read(read: Callable[[], bytes]) -> bytes | Exception:
    try:
        return read()
    except UNREADABLE as error:
        return error


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
