"""Sampled images on disk: a few ZIP archives of PNGs, with the same bytes every time, and a preview."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deme_core.errors import InputError
from deme_core.parallel import PIECE, in_order
from deme_core.tensors import atomic_file

PER_ARCHIVE = 1000
PROTOCOL = "protocol.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP entry can carry


def write_archive(directory: Path, number: int, pixels: torch.Tensor) -> None:
    """Images `number * PER_ARCHIVE` … as one archive; uint8 [n, C, H, W], C = 1 or 3."""
    with (
        atomic_file(directory / f"{number:04d}.zip") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        encoded = chain.from_iterable(in_order(_encode, pixels.split(PIECE)))
        for k, png in enumerate(encoded, number * PER_ARCHIVE):
            archive.writestr(zipfile.ZipInfo(f"{k:06d}.png", EPOCH), png)


def read_protocol(directory: Path) -> dict[str, Any]:
    """What made the images: sampler, seed block, number of images, cost of the model."""
    if not (directory / PROTOCOL).is_file():
        raise InputError(f"{directory}: no {PROTOCOL}; sample the images again")
    return json.loads((directory / PROTOCOL).read_text(encoding="utf-8"))


def read_images(directory: Path, count: int) -> Iterator[torch.Tensor]:
    """The first `count` images, an archive at a time, in the order of their index: uint8 [n, C, H, W].

    Raises:
        InputError: there are fewer.
    """
    seen = 0
    for path in sorted(directory.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())[: count - seen]
            files = [[archive.read(name) for name in names[k : k + PIECE]] for k in range(0, len(names), PIECE)]
        if files:
            pixels = torch.cat(list(in_order(_decode, files)))
            yield pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
            seen += len(pixels)
    if seen < count:
        raise InputError(f"{directory}: {count} images are asked for, {seen} are there; raise sample.images")


def _encode(pixels: torch.Tensor) -> list[bytes]:
    files = [io.BytesIO() for _ in pixels]
    for image, file in zip(pixels, files, strict=True):
        to_pil(image).save(file, "png")
    return [file.getvalue() for file in files]


def _decode(files: Sequence[bytes]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]))


def write_grid(path: Path, pixels: torch.Tensor, columns: int, scale: int = 1) -> None:
    """A sheet of images in reading order, each pixel enlarged `scale` times, as PNG."""
    rows = -(-len(pixels) // columns)
    channels, height, width = pixels.shape[1:]
    sheet = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), 255, dtype=torch.uint8)
    for k, image in enumerate(pixels):
        top, left = k // columns * (height + 1) + 1, k % columns * (width + 1) + 1
        sheet[:, top : top + height, left : left + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2)).save(path)


def to_pil(image: torch.Tensor) -> Image.Image:
    """uint8 [C, H, W], C = 1 or 3."""
    array = image.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
