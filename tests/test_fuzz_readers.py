"""Any bytes in the place of a file: a reader gives a result or an InputError of one line, without a gigabyte.

Files in order are torn: bytes changed, cut out, doubled, moved. `DEME_FUZZ=100 pytest tests/test_fuzz_readers.py` takes
a hundred times as many examples.
"""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from fuzzing import fuzz, outcome, source, torn
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, idx_bytes, noise, of_every_format

from deme_core.metrics.feature_files import read_features
from deme_core.metrics.statistics_files import import_statistics
from deme_core.tensors import map_tensors, read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("own_cache")


# Images


@cache
def images() -> list[bytes]:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI4s", 0x112, 3, 1, b"\0\6\0\0") + bytes(4)
    turned = io.BytesIO()
    noise(16, 8).save(turned, "JPEG", exif=exif)
    film = io.BytesIO()
    noise(8, 8).save(film, "GIF", save_all=True, append_images=[noise(8, 8, seed=1)])
    return [*of_every_format().values(), turned.getvalue(), film.getvalue()]


@fuzz(800)
@given(st.deferred(lambda: torn(images())), st.sampled_from(("stop", "skip")), st.booleans())
def test_images(data: bytes, unreadable: str, grey: bool) -> None:
    outcome(source("folder", "a.png", unreadable=unreadable, grey=grey), data)


# Archives


@cache
def archives() -> list[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a.png", encoded(noise(8, 8)))
            archive.writestr("b/b.jpg", encoded(noise(8, 8), "JPEG"))
            archive.writestr("photo", encoded(noise(8, 8), "GIF"))
            rows = [{"file_name": name, "text": "a"} for name in ("a.png", "b/b.jpg", "photo")]
            archive.writestr("metadata.jsonl", "\n".join(map(json.dumps, rows)))
        made.append(buffer.getvalue())
    return made


@fuzz(250)
@given(st.deferred(lambda: torn(archives())), st.sampled_from(("stop", "skip")), st.sampled_from((None, "text")))
def test_archives(data: bytes, unreadable: str, captions: str | None) -> None:
    outcome(source("zip", "a.zip", unreadable=unreadable, captions=captions), data)


# Tables


@cache
def tables() -> list[bytes]:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files are read by the optional package datasets")
    from pyarrow import parquet

    made = []
    for packed in ("none", "snappy", "gzip"):
        buffer = io.BytesIO()
        rows = {"image": [encoded(noise(8, 8, seed=k)) for k in range(3)], "text": ["a", "b", "c"]}
        parquet.write_table(pyarrow.table(rows), buffer, compression=packed)
        made.append(buffer.getvalue())
    return made


@fuzz(25)
@given(st.deferred(lambda: torn(tables())))
def test_parquet(data: bytes) -> None:
    pytest.importorskip("datasets", reason="parquet files are read by the optional package datasets")
    outcome(source("parquet", "a.parquet", captions="text", unreadable="skip"), data)


# idx


@cache
def idx_files() -> list[bytes]:
    plain = [idx_bytes(np.zeros(shape, np.uint8)) for shape in ((4, 5, 5), (0, 5, 5), (4, 0, 0), (4, 5, 3))]
    return [*plain, *(gzip.compress(data, mtime=0) for data in plain)]


@fuzz(300)
@given(st.deferred(lambda: torn(idx_files()) | st.sampled_from(idx_files())))
def test_idx(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "train-labels").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
        return source("idx", "train-images")(folder, data)

    outcome(read, data)


# Statistics and features


@cache
def statistics() -> list[bytes]:
    made = []
    for save in (np.savez, np.savez_compressed):
        for kind in (np.float64, np.float32, np.complex128, np.int8):
            buffer = io.BytesIO()
            save(buffer, mu=np.zeros(4, kind), sigma=np.eye(4, dtype=kind))
            made.append(buffer.getvalue())
    return made


@fuzz(300)
@given(st.deferred(lambda: torn(statistics())))
def test_statistics(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "a.npz").write_bytes(data)
        return import_statistics(folder / "a.npz", 4, folder)

    outcome(read, data)


@cache
def tensors() -> list[bytes]:
    made = []
    with TemporaryDirectory() as folder:
        for k, named in enumerate(({"features": torch.zeros(3, 4)}, {"a": torch.zeros(2, dtype=torch.bool)}, {})):
            write_tensors(Path(folder) / f"{k}", named, {"extractor_sha256": "x"})
            made.append((Path(folder) / f"{k}").read_bytes())
    return made


@fuzz(300)
@given(st.deferred(lambda: torn(tensors()) | st.sampled_from(tensors())))
def test_tensors(data: bytes) -> None:
    for read in (read_tensors, map_tensors, lambda path: read_features(path, "x")):

        def of_file(folder: Path, data: bytes, read: Callable[[Path], object] = read) -> object:
            (folder / "a.safetensors").write_bytes(data)
            return read(folder / "a.safetensors")

        outcome(of_file, data)
