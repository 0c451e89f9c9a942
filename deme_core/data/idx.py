"""idx files, the format of MNIST and its kin: images and labels, plain or gzip."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from deme_core.data.images import DataParams, Images
from deme_core.errors import InputError
from deme_core.naming import said
from deme_core.paths import matches

GZIP = b"\x1f\x8b"
MOST = 2**29 + 2**28  # bytes of a packed file; EMNIST, the largest of the kin, has 0.64e9
PIECE = 2**24  # bytes that are unpacked at a time
UBYTE = 8  # the one element type that images and labels have


def read_idx(params: DataParams) -> Images | dict[str, Images]:
    """The images and labels in the folder `data.path`: `*train-images*`, `*train-labels*`, `*t10k-…` for the test part.

    Larger images are brought to `data.size` by Pillow's antialiased bilinear filter, smaller ones padded evenly with 0.
    With `data.held_out` null the test files are the held-out part; else they are not read.
    """
    folder = next(iter(matches(params.path)), Path())
    if len(matches(params.path)) != 1 or not folder.is_dir():
        raise InputError(f"params: data.path = {params.path!r}: source 'idx' needs an existing folder of idx files")
    train = _read_part(folder, "train", params.size)
    if params.held_out is not None:
        return train
    return {"train": train, "heldout": _read_part(folder, "t10k", params.size)}


def read_idx_file(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file, plain or gzip.

    The header is big-endian: two zero bytes, the element type, the number of dimensions, and each of them as uint32
    (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").

    Raises:
        InputError: another magic number than that of unsigned bytes in `dimensions` dimensions, a damaged gzip file,
            or another number of values than the header announces.
    """
    packed = path.read_bytes()
    data: bytes | bytearray = packed
    if data[:2] == GZIP:
        try:
            data = _unpacked(packed)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged gzip file ({said(error)}); fetch it again") from None
    expected = bytes([0, 0, UBYTE, dimensions])
    if data[:4] != expected:
        raise InputError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, an idx file of unsigned bytes in {dimensions}"
            f" dimension(s) starts with {expected.hex()}; is it the right file?"
        )
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", data[4:start].ljust(4 * dimensions, b"\0"))
    if len(data) - start != math.prod(shape):
        values, announced = max(len(data) - start, 0), "×".join(map(str, shape))
        raise InputError(f"{path}: holds {values} values, its header announces {announced}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _unpacked(packed: bytes) -> bytearray:
    """What a gzip file holds, up to one byte more than its idx header announces, and never more than `MOST`.

    Raises:
        OSError: it announces more than `MOST` bytes, or is no gzip file; zlib.error, EOFError: it is damaged.
    """
    data = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        data += file.read(4)
        dimensions = data[3] if len(data) == 4 else 0
        data += file.read(4 * dimensions)
        announced = len(data) + math.prod(struct.unpack(f">{dimensions}I", data[4:].ljust(4 * dimensions, b"\0")))
        if announced > MOST:
            raise OSError(f"announces {announced:,} bytes, at most {MOST:,} are unpacked")
        while len(data) <= announced and (piece := file.read(min(PIECE, announced + 1 - len(data)))):
            data += piece
    return data


def _read_part(folder: Path, prefix: str, size: int) -> Images:
    files = {kind: _find(folder, f"{prefix}-{kind}") for kind in ("images", "labels")}
    pixels, labels = read_idx_file(files["images"], 3), read_idx_file(files["labels"], 1)
    if len(pixels) != len(labels):
        raise InputError(f"{folder}: {len(pixels)} {prefix} images but {len(labels)} labels; fetch both files again")
    if not pixels.size:
        raise InputError(
            f"{folder}: its {prefix} images are {'×'.join(map(str, pixels.shape))}, none; fetch them again"
        )
    squares = torch.from_numpy(np.stack([_to_size(image, size) for image in pixels]))
    return Images(squares[:, None], torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, kind: str) -> Path:
    found = sorted(file for file in folder.glob(f"*{kind}*") if file.is_file())
    if len(found) != 1:
        raise InputError(f"{folder}: needs exactly one file *{kind}*, holds {[file.name for file in found]}")
    return found[0]


def _to_size(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W] -> [size, size]: antialiased where it is larger, padded with 0 where it is smaller."""
    from PIL import Image

    height, width = image.shape
    if height != width:
        raise InputError(f"idx images of {width}×{height} pixels: only square ones are read")
    if size < height:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    before = (size - height) // 2
    return np.pad(image, (before, size - height - before))
