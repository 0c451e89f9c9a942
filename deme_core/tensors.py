"""safetensors files: lazy reading, writing with the same bytes every time, checks and hashes.

safetensors' own writer orders the metadata differently from run to run, which would change a DVC hash; the header
is therefore written here (https://huggingface.co/docs/safetensors, "Format").
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from deme_core.errors import InputError

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for lazy reading (`keys`, `get_tensor`, `get_slice`, `metadata`)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file ({error}); write or fetch it again") from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, by name."""
    with open_tensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that `write_tensors` put into a file's metadata; {} for a file of another writer."""
    with open_tensors(path) as file:
        return json.loads((file.metadata() or {}).get("recipe", "{}"))


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape, from the header alone."""
    with open_tensors(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def check_same_layout(actual: Mapping[str, tuple], expected: Mapping[str, tuple], what: str, of: str) -> None:
    """Refuse tensors whose names or shapes differ: nothing is skipped in a merge."""
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
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensor: Callable[[str], torch.Tensor],
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors one at a time: `tensor(key)` is called once a key, so that one of them is in memory at once.

    Raises:
        AssertionError: a tensor differs from its announced dtype or shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    if recipe is not None:
        header["__metadata__"]["recipe"] = json.dumps(recipe, sort_keys=True)
    end = 0
    for key in sorted(layout):
        dtype, shape = layout[key]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[key] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in sorted(layout):
            value = tensor(key)
            assert (value.dtype, tuple(value.shape)) == layout[key], key
            file.write(_bytes(value))


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def weights_hash(path: Path) -> str:
    """SHA-256 over names, dtypes, shapes and values in the order of names: the same for any writer and metadata."""
    digest = hashlib.sha256()
    with open_tensors(path) as file:
        for key in sorted(file.keys()):
            value = file.get_tensor(key)
            digest.update(f"{key} {DTYPES[value.dtype]} {list(value.shape)}\n".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: torch.Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
