"""Where a merge is written: a folder that appears whole or not at all, its weights in one file or in shards."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import WEIGHTS, denoiser_of, pipeline_files
from deme_core.errors import InputError
from deme_core.tensor_files import INDEX, Layout
from deme_core.tensors import atomic_file, file_header, nbytes, stream_pieces

STEM = WEIGHTS.removesuffix(".safetensors")
WEIGHTS_NAMES = rf"{STEM}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?"
BESIDE = {"merge.json", "README.md"}


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name, and the place of what was there, once it is whole.

    What a killed process left of it is cleared by the next one.

    Raises:
        InputError: the disk is full, or does not let itself be written to.
    """
    path = path.resolve()  # a link stays, and what it leads to is replaced
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    try:
        if old.exists() and not path.exists():  # killed between the two renames below
            old.replace(path)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.replace(old)
        partial.replace(path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: nothing written ({error}); make room there, or name a folder elsewhere"
            ) from None
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
        added = nbytes(*layout[key])
        if parts[-1] and max_shard_size is not None and size + added > max_shard_size:
            parts.append({})
            size = 0
        parts[-1][key] = layout[key]
        size += added
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {f"{STEM}-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}


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


def file_sizes(layout: Layout, max_shard_size: int | None, recipe: Mapping[str, Any]) -> dict[str, int]:
    """File name -> bytes of it."""
    return {
        name: len(file_header(part, recipe)) + sum(nbytes(*entry) for entry in part.values())
        for name, part in shard_layouts(layout, max_shard_size).items()
    }


def check_room(out: Path, needed: int) -> None:
    """Refuse a disk that has less room than what will be written: what is replaced goes only when the new is whole."""
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < needed:
        raise InputError(f"--out {out}: takes {needed:,} bytes, {free:,} are free; make room, or name another disk")


def check_out(out: Path, base: Path, members: Iterable[Path], force: bool) -> None:
    """Refuse an output that would overwrite something: an input, or a folder with anything in it.

    Args:
        force: admits an earlier merge, to be replaced; nothing else is ever deleted.
    """
    at = out.resolve()
    for given in (base, *members):
        other = given.resolve()
        if at == other or at in other.parents or other in at.parents:
            raise InputError(f"--out {out} and the input {given} overlap; choose a folder outside of the inputs")
    if at in (Path.cwd(), *Path.cwd().parents) or at.is_mount():
        raise InputError(
            f"--out {out} is a folder that cannot be replaced; name a new one in it: --out {out / 'merged'}"
        )
    if not at.exists():
        return
    if not at.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if any(at.iterdir()) and not force:
        raise InputError(f"--out {out} holds something already; name another folder, or replace a merge with --force")
    if strange := _not_of_a_merge(at, {file.relative_to(base) for file in frame(base)}):
        raise InputError(f"--out {out}: '{strange}' is of no merge; move it away, or name another folder")


def _not_of_a_merge(folder: Path, copied: set[Path]) -> str | None:
    """The first file in a folder that no merge of a base with the files `copied` has written there."""
    merged = (folder / "merge.json").is_file()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        written = inside in copied or str(inside) in BESIDE or re.fullmatch(WEIGHTS_NAMES, inside.name)
        if not file.is_dir() and not (merged and written):
            return str(inside)
    return None


def frame(base: Path) -> list[Path]:
    """The files of a base that a merge takes as they are: everything but the weights."""
    return [base / "config.json"] if denoiser_of(base) == base else list(pipeline_files(base, weights=False))
