"""Images in a column of a table: parquet files, and data sets of the Hugging Face hub, through `datasets`."""

from collections.abc import Callable
from functools import partial
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deme_core.data.captions import as_captions, captions_in_order
from deme_core.data.decode import decode_all
from deme_core.data.images import DataParams, Images
from deme_core.errors import InputError
from deme_core.naming import said
from deme_core.paths import matches

BYTES = ("binary", "large_binary", "binary_view")


def read_parquet(params: DataParams) -> Images:
    """The column `data.column` of the parquet file(s) `data.path`, in the order of their names."""
    files = parquet_files(params.path)
    if not files:
        raise InputError(
            f"params: data.path = {params.path!r}: source 'parquet' needs existing file(s), a folder of *.parquet, or a"
            " pattern"
        )
    # `datasets` takes names for patterns.
    names = [escape(str(file)) for file in files]
    return _column(_load("parquet", params, data_files=names, split="train"), params)


def parquet_files(path: str | None) -> list[Path]:
    """The files that a path of source `parquet` names: itself, or those directly in it, or those that match it."""
    found = matches(path)
    return [file for one in found for file in (sorted(one.glob("*.parquet")) if one.is_dir() else [one])]


def read_hub(params: DataParams) -> Images | dict[str, Images]:
    """The split `data.split` of the hub data set `data.path`; with `data.held_out` null its split `test` is held out.

    What is not in the cache of `datasets` is downloaded; with `data.stream` only that many images are, every time.
    """
    if params.path is None:
        raise InputError("params: data.path = None: source 'hub' needs the id of a data set, as uoft-cs/cifar10")
    if params.held_out is None and str(params.split).startswith("test"):
        raise InputError(
            f"params: data.split = {params.split!r}: with data.held_out null the split 'test' is held out, and nothing"
            " may be trained on it; give data.held_out a share, or another split"
        )
    what = "what is not in the cache" if params.stream is None else f"its first {params.stream:,} images"
    print(f"data set {params.path} (revision {params.revision or 'main'}): downloading {what}")
    train = _hub_split(params.path, params.split, params)
    return (
        train if params.held_out is not None else {"train": train, "heldout": _hub_split(params.path, "test", params)}
    )


def _hub_split(path: str, split: str, params: DataParams) -> Images:
    if params.stream is None:
        return _column(_load(path, params, revision=params.revision, split=split), params)
    head = _load(path, params, revision=params.revision, split=split, streaming=True).take(params.stream)
    from datasets import Dataset, Image

    if params.column in (head.column_names or ()):
        head = head.cast_column(params.column, Image(decode=False))  # as it lies there, not decoded and encoded again
    with TemporaryDirectory(prefix="deme-stream-") as folder:  # a table on disk, whose columns are read one by one
        table = _loaded(
            params, lambda: Dataset.from_generator(lambda: iter(head), features=head.features, cache_dir=folder)
        )
        return _column(table, params)


def _load(name: str, params: DataParams, **options: Any) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"params: data.source = {params.source!r} needs the package `datasets`: pip install 'deme[real-images]'"
        ) from None
    return _loaded(params, lambda: load_dataset(name, **options))


def _loaded(params: DataParams, load: Callable[[], Any]) -> Any:
    """What `load` returns, or in one line why it cannot."""
    try:
        return load()
    except Exception as error:  # `datasets` raises classes of its own, of fsspec, of the hub and of pyarrow
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__  # what `datasets` wraps says that something failed, not what
        raise InputError(
            f"params: data.path = {params.path!r}: cannot be loaded ({said(error)}); offline, fetch it elsewhere and"
            " read it with data.source=parquet or folder"
        ) from None


def _column(table: Any, params: DataParams) -> Images:
    from datasets import Image

    if params.column not in table.column_names:
        raise InputError(
            f"params: data.column = {params.column!r}: {params.path} has no such column; it has"
            f" {', '.join(table.column_names)}"
        )
    if not _holds_images(kind := table.features[params.column]):
        raise InputError(
            f"params: data.column = {params.column!r}: this column of {params.path} holds"
            f" {' '.join(str(kind).split())[:100]}, not encoded images; name the column that holds their bytes"
        )
    captions = None
    if params.captions is not None:
        if params.captions not in table.column_names:
            raise InputError(
                f"params: data.captions = {params.captions!r}: {params.path} has no such column; it has"
                f" {', '.join(table.column_names)}"
            )
        cells = table.select_columns([params.captions])
        names = {f"{params.path}[{k}]": row[params.captions] for k, row in enumerate(cells)}
        captions = captions_in_order(names, {n: as_captions(cell, n) for n, cell in names.items()}, params)
    images = table.select_columns([params.column]).cast_column(params.column, Image(decode=False))
    rows = ((f"{params.path}[{k}]", partial(_bytes, row[params.column])) for k, row in enumerate(images))
    return decode_all(rows, len(images), params, captions)


def _holds_images(kind: Any) -> bool:
    """Whether `datasets` takes a column of this kind for encoded images: bytes, or a record of bytes and a path."""
    from datasets import Image, Value

    if isinstance(kind, dict):
        return set(kind) == {"bytes", "path"} and all(isinstance(one, Value) for one in kind.values())
    return isinstance(kind, Image) or (isinstance(kind, Value) and kind.dtype in BYTES)


def _bytes(image: dict[str, Any] | None) -> bytes:
    if not image or not image["bytes"]:
        raise ValueError("holds no bytes of an image")
    return image["bytes"]
