"""Where a merge is written: a folder that appears whole or not at all, its weights in one file or in shards."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import WEIGHTS
from deme_core.errors import InputError
from deme_core.tensor_files import INDEX, Layout
from deme_core.tensors import atomic_file, file_header, nbytes, stream_pieces


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name, and the place of what was there, once it is whole.

    What a killed process left of it is cleared by the next one.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # killed between the two renames below
        old.replace(path)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.replace(old)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def shard_layouts(layout: Layout, max_shard_size: int | None) -> dict[str, Layout]:
    """File name -> what it holds, in the order of names; diffusers' names.

    Args:
        max_shard_size: bytes of tensors a file; a larger tensor has a file of its own. None: one file.
    """
    parts: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = [{}]
    size = 0
    for key in sorted(layout):
        own = nbytes(*layout[key])
        if parts[-1] and max_shard_size is not None and size + own > max_shard_size:
            parts.append({})
            size = 0
        parts[-1][key] = layout[key]
        size += own
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    stem = WEIGHTS.removesuffix(".safetensors")
    return {f"{stem}-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}


def write_weights(
    directory: Path, parts: Mapping[str, Layout], pieces: Callable[[str], Iterable[torch.Tensor]], recipe: Mapping
) -> None:
    """Write the files of `shard_layouts`, and their index where they are several."""
    for name, layout in parts.items():
        stream_pieces(directory / name, layout, pieces, recipe)
    if len(parts) > 1:
        index = {
            "metadata": {"total_size": sum(nbytes(*entry) for part in parts.values() for entry in part.values())},
            "weight_map": {key: name for name, part in parts.items() for key in part},
        }
        with atomic_file(directory / f"{WEIGHTS}{INDEX}") as file:
            file.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def rewrite_recipe(directory: Path, parts: Mapping[str, Layout], recipe: Mapping[str, Any]) -> None:
    """Put the final recipe, as long as the one that stands there, into the headers of written files."""
    for name, layout in parts.items():
        header = file_header(layout, recipe)
        with (directory / name).open("r+b") as file:
            length = 8 + int.from_bytes(file.read(8), "little")
            assert length == len(header), "a recipe of another length"
            file.seek(0)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())


def check_out(out: Path, inputs: Iterable[Path], force: bool) -> None:
    """Refuse an output that would overwrite something: a folder with anything in it, unless `force`, or an input."""
    for given in inputs:
        one, other = out.resolve(), given.resolve()
        if one == other or one in other.parents or other in one.parents:
            raise InputError(f"--out {out} and the input {given} overlap; choose a folder outside of the inputs")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise InputError(f"--out {out} holds something already; name another folder, or replace it with --force")
