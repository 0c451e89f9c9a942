"""Reading safetensors files, single or in shards, tensor by tensor or piece by piece."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.naming import said

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
INDEX = ".index.json"
PIECE = 1 << 20  # elements; a few MB stay in the processor's cache, and their memory is used again


class Tensors:
    """The tensors of a safetensors file, or of the shards that an index names; each file is opened once.

    Read with plain reads, whole or in pieces: a memory map's pages would count as memory of the process. For what is
    read again and again, there is `deme_core.tensors.map_tensors`.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, or an `….safetensors.index.json` as diffusers writes it.

        Raises:
            InputError: a file is missing, cut short or no safetensors file, or does not hold what the index says.
        """
        self.path = path
        self.metadata: dict[str, str] = {}
        self.layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self._place: dict[str, tuple[IO[bytes], int]] = {}
        self._files: list[IO[bytes]] = []
        for shard in shards(path):
            file, header, data = _open(shard)
            self._files.append(file)
            self.metadata = header.pop("__metadata__", {})  # the shards of one model carry the same
            for key, entry in header.items():
                if key in self.layout:
                    raise InputError(
                        f"{path}: '{key}' is in two of its shards, of which one would be lost; fetch them again"
                    )
                if entry["dtype"] not in _DTYPE_OF:
                    raise InputError(
                        f"{shard}: '{key}' is of dtype {entry['dtype']}, which is not read; save it as one of"
                        f" {', '.join(_DTYPE_OF)}"
                    )
                self.layout[key] = (_DTYPE_OF[entry["dtype"]], tuple(entry["shape"]))
                self._place[key] = (file, data + entry["data_offsets"][0])
        if path.suffix == ".json":
            listed = set(weight_map(path))
            for key in sorted(listed ^ set(self.layout)):
                raise InputError(f"{path}: '{key}' is in the index or in the shards, not in both; fetch them again")

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe in the metadata; {} for a file of another writer."""
        try:
            found = json.loads(self.metadata["recipe"])
        except (KeyError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def places(self) -> dict[str, tuple[Path, int]]:
        """Name -> the tensor's file, and where its bytes begin there."""
        return {key: (Path(file.name), place) for key, (file, place) in self._place.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {key: shape for key, (_, shape) in self.layout.items()}

    def numel(self, key: str) -> int:
        """Number of elements of a tensor."""
        return torch.Size(self.layout[key][1]).numel()

    def flat(self, key: str, start: int, stop: int) -> torch.Tensor:
        """The elements [start, stop) of a tensor in C order, [stop − start]; memory of the caller's own."""
        dtype, _ = self.layout[key]
        file, place = self._place[key]
        value = torch.empty(stop - start, dtype=dtype)
        file.seek(place + start * dtype.itemsize)
        data, done = memoryview(as_bytes(value)), 0
        while done < value.nbytes:  # an unbuffered read gives at most 2 GiB
            got = file.readinto(data[done:])  # type: ignore[attr-defined]
            if not got:
                raise InputError(f"{self.path}: cut short while it was read; nothing may write to it meanwhile")
            done += got
        return value

    def get_tensor(self, key: str) -> torch.Tensor:
        """A whole tensor."""
        return self.flat(key, 0, self.numel(key)).reshape(self.layout[key][1])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shards(path: Path) -> list[Path]:
    """The files behind a path: itself, or the shards that an index names."""
    if path.suffix != ".json":
        return [path]
    return [path.parent / name for name in sorted(set(weight_map(path).values()))]


def weight_map(index: Path) -> dict[str, str]:
    """Name of a tensor -> the file beside the index that holds it."""
    found = read_json(index, {"weight_map": dict})["weight_map"]
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{index} is no index of shards: {name!r} is no file beside it; fetch it again")
    return found


def _open(path: Path) -> tuple[IO[bytes], dict[str, Any], int]:
    """(open file, header, where the data start); safetensors itself checks that the file is whole, without gaps."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np"):  # torch's map would be a writable one, which a large file cannot have
            pass
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file ({said(error)}); write or fetch it again") from None
    file = path.open("rb", buffering=0)
    (length,) = struct.unpack("<Q", file.read(8))
    return file, json.loads(file.read(length)), 8 + length


def piece_bounds(numel: int, size: int = PIECE) -> Iterator[tuple[int, int]]:
    """[start, stop) of the pieces of a tensor; an empty tensor has one, empty."""
    for start in range(0, max(numel, 1), size):
        yield start, min(start + size, numel)


def as_bytes(value: torch.Tensor) -> Any:
    """The bytes of a tensor in C order, uint8 [nbytes] of numpy; a view of a contiguous tensor on the CPU."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
