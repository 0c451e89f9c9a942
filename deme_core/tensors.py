"""safetensors files: writing with the same bytes every time, checks and hashes.

safetensors' own writer orders the metadata differently from run to run, which would change a DVC hash; the header
is therefore written here (https://huggingface.co/docs/safetensors, "Format").
"""

import errno
import hashlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from deme_core.errors import InputError
from deme_core.tensor_files import DTYPES, Layout, Tensors, as_bytes, piece_bounds, shards


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file or of an index's shards, by name."""
    with Tensors(path) as tensors:
        return {key: tensors.get_tensor(key) for key in tensors.layout}


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file or of an index's shards, by name, as a memory map that processes of a machine share.

    What is used is read then, and given back when memory is short. They cannot be written to: the map is read-only,
    since the kernel refuses a writable one, as safetensors makes, of a file that is larger than memory. A tensor whose
    bytes are not aligned to its dtype, which the format admits, is copied.
    """
    with Tensors(path) as tensors, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        data = {file: np.memmap(file, np.uint8, "r") for file in shards(path)}
        mapped = {}
        for key, (file, place) in tensors.places.items():
            dtype, shape = tensors.layout[key]
            value = torch.from_numpy(data[file][place : place + nbytes(dtype, shape)])
            mapped[key] = (value.clone() if place % dtype.itemsize else value).view(dtype).reshape(shape)
    return mapped


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that `write_tensors` put into a file's metadata; {} for a file of another writer."""
    with Tensors(path) as tensors:
        return tensors.recipe


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape, from the headers alone."""
    with Tensors(path) as tensors:
        return tensors.shapes()


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota, size of a file
WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel"}


def check_same_layout(actual: Mapping[str, tuple], expected: Mapping[str, tuple], what: str, of: str) -> None:
    """Refuse tensors whose names or shapes differ: nothing is skipped in a merge. Nor are names repaired."""
    for keys, owner in ((actual, what), (expected, of)):
        for prefix, wrapper in WRAPPERS.items():
            if keys and all(key.startswith(prefix) for key in keys):
                raise InputError(
                    f"{owner}: every key begins with '{prefix}', as {wrapper} names them; save the model that it wraps:"
                    f" model.{prefix}save_pretrained(…)"
                )
    for key in sorted(set(actual) ^ set(expected)):
        has, lacks = (what, of) if key in actual else (of, what)
        raise InputError(f"{what} and {of} are different architectures: {has} has '{key}', {lacks} has not")
    for key, shape in expected.items():
        if tuple(actual[key]) != tuple(shape):
            raise InputError(
                f"{what} and {of} are different architectures: '{key}' has shape {list(actual[key])} in {what},"
                f" {list(shape)} in {of}"
            )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], recipe: Mapping[str, Any] | None = None) -> None:
    """Write tensors atomically, keys sorted, `recipe` as JSON in the metadata; equal input gives equal bytes."""
    layout = {key: (t.dtype, tuple(t.shape)) for key, t in tensors.items()}
    stream_tensors(path, layout, tensors.__getitem__, recipe)


def stream_tensors(
    path: Path, layout: Layout, tensor: Callable[[str], torch.Tensor], recipe: Mapping[str, Any] | None = None
) -> None:
    """Write tensors one at a time: `tensor(key)` is called once a key, so that one of them is in memory at once.

    Raises:
        AssertionError: a tensor differs from its announced dtype or shape.
    """

    def whole(key: str) -> list[torch.Tensor]:
        value = tensor(key)
        assert tuple(value.shape) == layout[key][1], key
        return [value]

    stream_pieces(path, layout, whole, recipe)


def stream_pieces(
    path: Path, layout: Layout, pieces: Callable[[str], Iterable[torch.Tensor]], recipe: Mapping[str, Any] | None = None
) -> None:
    """Write tensors piece by piece: `pieces(key)` gives a tensor's elements in C order, in tensors of any shape.

    Raises:
        AssertionError: a piece is of another dtype than announced, or the pieces of other size.
    """
    with atomic_file(path) as file:
        file.write(file_header(layout, recipe))
        for key in sorted(layout):
            dtype, shape = layout[key]
            left = torch.Size(shape).numel()
            for piece in pieces(key):
                assert piece.dtype == dtype, key
                file.write(as_bytes(piece))
                left -= piece.numel()
            assert left == 0, key


def file_header(layout: Layout, recipe: Mapping[str, Any] | None = None) -> bytes:
    """What precedes the data in a file of these tensors, keys sorted; its length depends on the recipe's only."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    if recipe is not None:
        header["__metadata__"]["recipe"] = json.dumps(recipe, sort_keys=True)
    end = 0
    for key in sorted(layout):
        dtype, shape = layout[key]
        start, end = end, end + nbytes(dtype, shape)
        header[key] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return dtype.itemsize * torch.Size(shape).numel()


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when whole and on disk.

    Raises:
        InputError: there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise InputError(f"{path}: not written ({error}); make room, or write to another disk") from None
        raise


def weights_hash(path: Path) -> str:
    """SHA-256 over names, dtypes, shapes and values in the order of names: the same for any writer and metadata.

    A file and the shards of an index that hold the same tensors have the same hash.
    """
    digest = hashlib.sha256()
    with Tensors(path) as tensors:
        for key in sorted(tensors.layout):
            digest.update(hash_line(key, *tensors.layout[key]))
            for start, stop in piece_bounds(tensors.numel(key)):
                digest.update(as_bytes(tensors.flat(key, start, stop)))
    return digest.hexdigest()


def hash_line(key: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """What `weights_hash` hashes before the values of a tensor."""
    return f"{key} {DTYPES[dtype]} {list(shape)}\n".encode()
