"""Captions of images: a cell of a table, or metadata.jsonl and metadata.csv beside image files.

The metadata files are those of Hugging Face's imagefolder: `file_name`, relative to the metadata file, and a column of
captions. An image may stand in several rows, and a cell may hold a list: each is one caption more.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from deme_core.data.images import DataParams
from deme_core.errors import InputError
from deme_core.json_files import parse_json
from deme_core.naming import brief, named, said, shown

METADATA = ("metadata.csv", "metadata.jsonl")


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
        for row in _rows(table, _table(table, read)):
            for column in ("file_name", params.captions):
                if row.get(column) is None:
                    raise InputError(
                        f"{shown(table)}: a row has no '{column}', only {brief(', '.join(map(str, row)))}; write it"
                    )
            name = str(PurePosixPath(table).parent / str(row["file_name"]))
            found[name] = found.get(name, ()) + as_captions(row[params.captions], f"{table}, {name}")
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
    if bare := [name for name, texts in zip(names, captions, strict=True) if not texts]:
        raise InputError(
            f"images without captions: {named(bare)} of {len(captions)} have none in '{params.captions}'; caption them,"
            " or take them out"
        )
    return captions


def as_captions(cell: Any, where: str) -> tuple[str, ...]:
    """The captions in a cell: a string, or a list of strings; blank ones and null are none.

    Raises:
        InputError: the cell holds anything else; `where` it stands.
    """
    texts = cell if isinstance(cell, list | tuple) else [cell]
    if odd := [text for text in texts if not isinstance(text, str | None)]:
        raise InputError(
            f"{shown(where)}: {shown(odd[0])[:60]} is of type {type(odd[0]).__name__}, a caption is a text, or a list"
            " of texts; write texts, or name another column in data.captions"
        )
    return tuple(text.strip() for text in texts if text and text.strip())


def _table(name: str, read: Callable[[str], bytes]) -> bytes:
    try:
        return read(name)
    except Exception as error:  # of the file system, of zipfile and its decompressors
        raise InputError(f"{shown(name)}: cannot be read ({said(error)}); write it again") from None


def _rows(table: str, data: bytes) -> list[dict[Any, Any]]:
    try:
        text = data.decode("utf-8-sig")
        if table.endswith(".csv"):
            return _csv_rows(text)
        # JSON strings may hold what str.splitlines takes for the end of a line.
        rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{shown(table)}: cannot be read ({said(error)}); one JSON object a line, or a CSV with a header"
        ) from None
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{table}: a line is no JSON object; each must be one, as {{"file_name": …, "text": …}}')
    return rows


def _csv_rows(text: str) -> list[dict[Any, Any]]:
    """The rows under a header; ValueError for one of another length, as an unquoted comma makes, or an open quote."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        raise ValueError(f"a column stands twice in its header, {', '.join(header)}")
    rows = []
    for cells in reader:
        if cells and len(cells) != len(header):
            raise ValueError(
                f"line {reader.line_num} has {len(cells)} cells, the header {len(header)}; a text with a comma in it"
                " stands in double quotes"
            )
        rows += [dict(zip(header, cells, strict=True))] if cells else []
    return rows
