"""Any bytes in the place of a file: a reader gives a result or an InputError of one line, without a gigabyte.

Files in order are torn (bytes changed, cut out, doubled, moved), and texts are drawn. `DEME_FUZZ=100 pytest
tests/test_fuzz_readers.py` takes a hundred times as many examples.
"""

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encoded, idx_bytes, noise, of_every_format

from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES
from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import read_config
from deme_core.metrics.statistics_files import import_statistics
from deme_core.prompts.table import SOURCES as PROMPTS
from deme_core.tensors import map_tensors, read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("own_cache")

MOST_MEMORY = 10**9  # bytes beyond what the imports take
MORE = float(os.environ.get("DEME_FUZZ", "1"))

Reader = Callable[[Path, bytes], object]


def fuzz(examples: int) -> settings:
    healthy = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=max(1, int(examples * MORE)), suppress_health_check=healthy)


@st.composite
def torn(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of some files with a few pieces changed; of many a number in the header, where what is claimed stands."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        near = draw(st.sampled_from((16, 64, 512, len(data) or 1)))
        at = draw(st.integers(0, max(0, min(near, len(data)) - 1)))
        kind = draw(st.sampled_from(("byte", "number", "cut", "double", "insert", "end", "tail")))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            width = draw(st.sampled_from((2, 4, 8)))
            claimed = draw(st.sampled_from((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)))
            data[at : at + width] = (claimed % 2 ** (8 * width)).to_bytes(
                width, draw(st.sampled_from(("big", "little")))
            )
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "end":
            del data[at:]
        elif data:
            data[-1 - at % len(data)] = draw(st.integers(0, 255))
    return bytes(data)


def outcome(read: Reader, data: bytes) -> None:
    """Read a file of these bytes in a folder of its own."""
    with TemporaryDirectory() as folder:
        try:
            read(Path(folder), data)
        except InputError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 2000
            message.encode()  # it can be printed
    assert peak() < AT_START + MOST_MEMORY


def peak() -> int:
    """The most memory that this process has held, in bytes; ru_maxrss would be that of the process that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


AT_START = peak()


def source(name: str, file: str, **options: object) -> Reader:
    def read(folder: Path, data: bytes) -> object:
        (folder / file).write_bytes(data)
        given = {"source": name, "path": str(folder if name in ("folder", "idx") else folder / file), "size": 8}
        return SOURCES[name].read(DataParams(**{**given, "held_out": 0.0, **options}))

    return read


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
        for k, own in enumerate(({"features": torch.zeros(3, 4)}, {"a": torch.zeros(2, dtype=torch.bool)}, {})):
            write_tensors(Path(folder) / f"{k}", own, {"extractor_sha256": "x"})
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


# Texts


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("text", "file_name", "annotations", "id", "image_id", "caption", "0", "1")), inner
        )
    ),
    max_leaves=8,
)

PIECES = (
    "0", "1", "tench", "n01440764", " ", "\n", "\t", ",", '"', "'", "{", "}", "[", "]", ":", "\\ud800", "\ufeff", "\0",
    "Prompt", "file_name", "text", "a.png", "\r", "\u2028", "é", "1e999", "NaN", "null", "9" * 5000,
)  # fmt: skip

TEXTS = (
    st.binary(max_size=64)
    | st.lists(st.sampled_from(PIECES), max_size=20).map(lambda pieces: "".join(pieces).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | torn([b'{"file_name": "a.png", "text": "a"}\n', b"file_name,text\na.png,a\n", b"Prompt\tCategory\na\tb\n",
            b"{0: 'tench, Tinca tinca', 1: 'goldfish'}", b"0 tench\n1 goldfish\n", b'{"0": ["n01440764", "tench"]}',
            b'{"annotations": [{"image_id": 1, "id": 1, "caption": "a"}]}', b'{"_class_name": "Pixels"}'])
)  # fmt: skip


@fuzz(500)
@given(TEXTS)
def test_prompts(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "a.json").write_bytes(data)
        (folder / "a.txt").write_bytes(data)
        for own in PROMPTS.values():
            for file in ("a.json", "a.txt"):
                try:
                    own(folder / file)
                except InputError as error:
                    assert "\n" not in str(error) and len(str(error)) < 2000
        return None

    outcome(read, data)


@fuzz(300)
@given(TEXTS, st.sampled_from(("metadata.jsonl", "metadata.csv")))
def test_captions(data: bytes, table: str) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / table).write_bytes(data)
        return source("folder", "a.png", captions="text")(folder, encoded(noise(8, 8)))

    outcome(read, data)


@fuzz(300)
@given(TEXTS)
def test_configs(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "config.json").write_bytes(data)
        try:
            read_json(folder / "config.json", {"a": int, "b": str | None})
        except InputError as error:
            assert "\n" not in str(error)
        return read_config(folder)

    outcome(read, data)
