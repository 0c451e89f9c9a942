"""Captions of images: a cell of a table, or metadata.jsonl and metadata.csv beside image files.

The metadata files are those of Hugging Face's imagefolder: `file_name`, relative to the metadata file, and a column of
captions. An image may stand in several rows, and a cell may hold a list: each is one caption more.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from deme_core.data.images import DataParams
from deme_core.errors import InputError

METADATA = ("metadata.csv", "metadata.jsonl")
NAMED = 3  # images that a message names; it counts the rest


def file_captions(
    tables: list[str], read: Callable[[str], bytes], images: list[str], params: DataParams
) -> list[tuple[str, ...]]:
    """The captions of each image file, in the order of `images`, from the metadata files among `tables`.

    Raises:
        InputError: there is no metadata file, it is broken or lacks a column, images have no caption, or captions no
            image.
    """
    if not tables:
        raise InputError(
            f"params: data.captions = {params.captions!r}: {params.path} holds no metadata.jsonl and no metadata.csv;"
            f" write one with file_name and {params.captions}, or set data.captions=null"
        )
    found: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for row in _rows(table, read(table)):
            for column in ("file_name", params.captions):
                if row.get(column) is None:
                    raise InputError(f"{table}: a row has no '{column}', only {', '.join(map(str, row))}; write it")
            name = str(PurePosixPath(table).parent / str(row["file_name"]))
            found[name] = found.get(name, ()) + as_captions(row[params.captions])
    known = set(images)
    if strangers := [name for name in found if name not in known]:
        raise InputError(
            f"captions without images: {named(strangers)} in the metadata of {params.path} are no image files there;"
            " add the images, or remove these rows"
        )
    return captions_in_order(images, found, params)


def captions_in_order(
    names: Iterable[str], found: Mapping[str, tuple[str, ...]], params: DataParams
) -> list[tuple[str, ...]]:
    """The captions of each name; refuses an image without any."""
    captions = [found.get(name, ()) for name in names]
    if bare := [name for name, own in zip(names, captions, strict=True) if not own]:
        raise InputError(
            f"images without captions: {named(bare)} of {len(captions)} have none in '{params.captions}'; caption them,"
            " or take them out"
        )
    return captions


def as_captions(cell: Any) -> tuple[str, ...]:
    """The captions in a cell: a string, or a list of strings; blank ones are none."""
    texts = cell if isinstance(cell, list | tuple) else [cell]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def named(names: list[str]) -> str:
    """The first few of some names, and how many there are."""
    return f"{len(names)} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"


def _rows(table: str, data: bytes) -> list[dict[Any, Any]]:
    try:
        text = data.decode("utf-8-sig")
        if table.endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text)))
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); one JSON object a line, or a CSV with a header") from None
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{table}: a line is no JSON object; each must be one, as {{"file_name": …, "text": …}}')
    return rows
