"""Images in archives and tables, and files that claim more than they hold."""

import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import encoded, noise, read, write_folder, write_zip

from deme_core.errors import InputError
from deme_core.paths import at_home

pytestmark = pytest.mark.usefixtures("own_cache")

# Archives


def patched(path: Path, name: str, method: int | None = None, flags: int = 0) -> Path:
    """The archive with another method or flags in both headers of a file."""
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(name).header_offset
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    at = data.index(name.encode(), directory) - 46
    for flag, kind in ((place + 6, place + 8), (at + 8, at + 10)):
        data[flag] |= flags
        if method is not None:
            data[kind : kind + 2] = struct.pack("<H", method)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("unreadable", ["stop", "skip"])
def test_an_archive_that_cannot_be_unpacked_is_refused_before_anything_is(tmp_path: Path, unreadable: str) -> None:
    files = {"a.png": encoded(noise(8, 8)), "b.png": encoded(noise(8, 8))}
    for method, name in ((9, "Deflate64"), (97, "method 97"), (1, "Shrink")):
        path = patched(write_zip(tmp_path / "x.zip", files), "b.png", method)
        with pytest.raises(
            InputError, match=rf"x\.zip: 1 \(b\.png\) are packed by a method that is not read \({name}\)"
        ):
            read("zip", path, unreadable=unreadable)
    path = patched(write_zip(tmp_path / "x.zip", files), "a.png", flags=1)
    with pytest.raises(InputError, match=r"x\.zip: 1 \(a\.png\) are encrypted; unpack them"):
        read("zip", path, unreadable=unreadable)


METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS)
def test_damaged_entries_are_unreadable_images(tmp_path: Path, method: str) -> None:
    whole = tmp_path / "x.zip"
    with zipfile.ZipFile(whole, "w", METHODS[method]) as archive:
        for k in range(3):
            archive.writestr(f"{k}.bmp", encoded(noise(32, 32, seed=k), "BMP"))
    assert len(read("zip", whole)) == 3
    data = whole.read_bytes()
    draw = random.Random(0)
    for k in range(20):
        torn = bytearray(data)
        for _ in range(1 + k % 3):
            torn[draw.randrange(40, 2500)] = draw.randrange(256)
        whole.write_bytes(torn)
        try:
            read("zip", whole, unreadable="skip")
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("method", METHODS)
def test_an_archive_that_lies_about_a_size_costs_no_memory(tmp_path: Path, method: str) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", METHODS[method]) as archive:
        archive.writestr("a.png", encoded(noise(8, 8)))
        archive.writestr("b.png", bytes(2**20))
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    at = data.index(b"b.png", directory) - 46
    for size, message in ((2**31, r"unpacks to 2,147,483,648 bytes, at most"), (2**20 + 1, "announced|CRC")):
        data[at + 24 : at + 28] = struct.pack("<I", size)
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"1 of 2 images are unreadable: \S*b\.png \(.*({message})"):
            read("zip", path)


def test_an_entry_without_a_name_is_a_file_like_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("a.png", encoded(noise(8, 8))), ("b/", b""), ("x", b"x")):
            archive.writestr(name, data)
        archive.filelist[-1].filename = ""  # in the directory, which is written last
    assert len(read("zip", path)) == 1
    assert "left out no images: 1 (" in capsys.readouterr().out


def test_of_a_name_that_stands_twice_in_an_archive_the_last_is_read_once(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.png": encoded(noise(8, 8))})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", encoded(noise(8, 8, seed=1)))
    (image,) = read("zip", path).pixels
    assert np.array_equal(image.permute(1, 2, 0), np.asarray(noise(8, 8, seed=1)))


# Images that claim much


def claiming(width: int, height: int) -> bytes:
    """A small whole PNG of one colour and this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12_000, 11_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_would_take_a_gigabyte_is_unreadable(tmp_path: Path, size: tuple[int, int]) -> None:
    files = {"a.png": encoded(noise(8, 8)), "bomb.png": claiming(*size)}
    with pytest.raises(InputError, match=r"1 of 2 images are unreadable: \S*bomb\.png \(.*(pixels|Truncated|large)"):
        read("folder", write_folder(tmp_path, files))


# Tables


def write_table(path: Path, **columns: Any) -> Path:
    pytest.importorskip("datasets", reason="parquet files are read by the optional package datasets")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(
    "column",
    [[1, 2], [[1, 2], [3]], [1.5, 2.5], ["a.png", "b.png"], [[[0, 255]], [[255, 0]]], [{"x": 1}, {"x": 2}],
     [True, False], [[b"a"], [b"b"]]],
)  # fmt: skip
def test_a_column_that_holds_no_images_is_refused(tmp_path: Path, column: list[Any]) -> None:
    path = write_table(tmp_path / "x.parquet", image=column)
    with pytest.raises(InputError, match=r"data\.column = 'image': this column of \S+ holds .*, not encoded") as error:
        read("parquet", path, unreadable="skip")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", [[1, 2], [["a", "b"], [3]][1:] * 2, [{"raw": "a"}] * 2])
def test_a_column_that_holds_no_captions_is_refused(tmp_path: Path, column: list[Any]) -> None:
    images = [encoded(noise(8, 8)), encoded(noise(8, 8))]
    path = write_table(tmp_path / "x.parquet", image=images, text=column)
    with pytest.raises(InputError, match=r"x\.parquet\[0\]: .* is of type \w+, a caption is a text"):
        read("parquet", path, captions="text")


def test_parquet_files_are_found_by_folder_by_pattern_and_by_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a/0.parquet", "b/1 [x].parquet"):
        (tmp_path / "my sets" / name).parent.mkdir(parents=True)
        write_table(tmp_path / "my sets" / name, image=[encoded(noise(8, 8))])
    for path, count in (("a", 1), ("*/*.parquet", 2), ("b/1 [x].parquet", 1), ("*", 2), ("**/*.parquet", 2)):
        assert len(read("parquet", at_home(f"~/my sets/{path}"))) == count, path
