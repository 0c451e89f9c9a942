"""Encoded images of any kind and size -> squares of one size; what cannot be read is named."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from deme_core.data.formats import formats
from deme_core.data.images import DataParams, Images, new_pixels
from deme_core.data.square import square_and_frames
from deme_core.errors import InputError
from deme_core.naming import named, said, shown
from deme_core.progress import progress

AHEAD = 256  # images that are in memory at once, encoded and as squares
AHEAD_BYTES = 2**28  # encoded; beyond them fewer images are
MOST_BYTES = 2**28  # of one encoded image
NAMED = 10  # unreadable images that a message names; it counts the rest
IN_MEMORY = r" <_io\.BytesIO[^>]*>"  # how Pillow names what it read


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
    films: list[str] = []
    rows = pixels.numpy()  # the same memory
    for k, (name, square) in enumerate(progress(_squares(encoded, params), desc="images", total=count, unit="image")):
        if isinstance(square, Exception):
            broken.append(f"{shown(name)} ({reason(square)})")
        else:
            rows[len(kept)], more = square
            kept.append(k)
            films += [name] if more else []
    if broken:
        names = "; ".join(broken[:NAMED]) + (f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else "")
        if params.unreadable == "stop" or not kept:
            raise InputError(
                f"{len(broken)} of {count} images are unreadable: {names}; remove them, write them again, or leave them"
                " out with data.unreadable=skip"
            )
        print(f"left out {len(broken)} of {count} images, which are unreadable: {names}")
    if films:
        print(f"of images with several frames the first is read: {named(films)}")
    labels = torch.full((len(kept),), -1, dtype=torch.int64)
    kept_captions = None if captions is None else tuple(captions[k] for k in kept)
    return Images(pixels[: len(kept)], labels, kept_captions)


def reason(error: Exception) -> str:
    """Why an image is unreadable, on one line."""
    return re.sub(IN_MEMORY, "", said(error))


Encoded = tuple[int, str, bytes | Exception]
Square = tuple[np.ndarray, bool]


def _squares(
    encoded: Iterable[tuple[str, Callable[[], bytes]]], params: DataParams
) -> Iterator[tuple[str, Square | Exception]]:
    """Names and squares in order, with whether there are more frames; or what made an image unreadable.

    Images are decoded in threads, but read in this one: an open ZIP archive promises nothing to several.
    """

    def decode(one: Encoded) -> Square | Exception:
        k, _, data = one
        try:
            return data if isinstance(data, Exception) else square_and_frames(data, params, k)
        except Exception as error:  # Pillow raises what it stumbles over in damaged files of its many formats
            return error

    formats()  # Pillow loads them when first asked, which two threads must not do at once
    with ThreadPoolExecutor() as pool:
        for some in _portions(encoded):
            yield from zip((name for _, name, _ in some), pool.map(decode, some), strict=True)


def _portions(encoded: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[list[Encoded]]:
    """The encoded images, numbered, as many at a time as memory is meant to hold."""
    some: list[Encoded] = []
    size = 0
    for k, (name, read) in enumerate(encoded):
        data = _read(read)
        some.append((k, name, data))
        size += len(data) if isinstance(data, bytes) else 0
        if len(some) >= AHEAD or size >= AHEAD_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _read(read: Callable[[], bytes]) -> bytes | Exception:
    try:
        return read()
    except Exception as error:  # of the file system, of zipfile and its decompressors
        return error
