"""What lies in users' folders and archives: every kind of image is read, and what is left out is counted and named."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import encoded, noise, of_every_format, read, write_folder, write_zip
from PIL import Image

from deme_core.data.formats import NOT_READ
from deme_core.data.images import DataParams
from deme_core.data.square import to_square
from deme_core.errors import InputError
from deme_core.inputs import inputs
from deme_core.metrics.__main__ import squares
from deme_core.params import read as read_params
from deme_core.paths import at_home, matches

pytestmark = pytest.mark.usefixtures("own_cache")

PARAMS = DataParams(source="folder", path=".", size=8, held_out=0.0)


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_every_raster_format_that_pillow_writes_is_read(tmp_path: Path, source: str) -> None:
    files = {f"{k:02}{ending}": data for k, (ending, data) in enumerate(of_every_format().items())}
    assert {name[2:] for name in files} >= {
        ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif",
        ".webp", ".apng", ".ico", ".dds", ".pcx", ".qoi",
    }  # fmt: skip
    path = write_folder(tmp_path / "x", files) if source == "folder" else write_zip(tmp_path / "x.zip", files)
    images = read(source, path).pixels
    assert len(images) == len(files)
    for row, data in zip(images, files.values(), strict=True):
        assert np.array_equal(row, to_square(data, PARAMS, 0))


def test_what_starts_another_program_or_is_no_picture_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a.png": encoded(noise(8, 8)), "b.eps": encoded(noise(8, 8), "EPS"), "c.heic": b"x", "d.TXT": b"x"}
    assert len(read("folder", write_folder(tmp_path, files))) == 1
    said = capsys.readouterr().out
    assert f"left out no images: 3 ({tmp_path}/b.eps, {tmp_path}/c.heic, {tmp_path}/d.TXT)" in said
    assert "1 .eps, 1 .heic, 1 .txt" in said
    assert {"EPS", "WMF"} <= NOT_READ


def test_a_drawing_with_the_name_of_a_picture_starts_no_program(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 1 images are unreadable: \S*a\.png \(cannot identify"):
        read("folder", write_folder(tmp_path, {"a.png": encoded(noise(8, 8), "EPS")}))


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_a_file_without_an_ending_is_looked_into(tmp_path: Path, source: str) -> None:
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "QOI")
    files = {f"photo{k}": encoded(noise(16, 16), kind) for k, kind in enumerate(kinds)} | {"README": b"text", "no": b""}
    path = write_folder(tmp_path / "x", files) if source == "folder" else write_zip(tmp_path / "x.zip", files)
    assert len(read(source, path)) == len(kinds)


def test_the_first_of_several_frames_is_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [noise(8, 8, seed=k) for k in range(3)]
    for kind in ("gif", "tiff", "webp", "png"):
        lossless: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        frames[0].save(tmp_path / f"{kind}.{kind}", save_all=True, append_images=frames[1:], **lossless)
    write_folder(tmp_path, {"single.png": encoded(frames[0])})
    images = read("folder", tmp_path).pixels
    assert "several frames the first is read: 4 (" in capsys.readouterr().out
    for row in images[1:]:
        assert np.array_equal(row.permute(1, 2, 0), np.asarray(frames[0]))


TOOLS = (
    ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", "b/._a.png", ".thumbnails/a.png", "@eaDir/a.png/XL.jpg",
    ".git/x.png", "$RECYCLE.BIN/a.png", "Catalog Previews.lrdata/a.jpg", "Thumbs.db", "desktop.ini", ".DS_Store",
)  # fmt: skip


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_what_tools_leave_is_left_out_and_said(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"b/a.png": encoded(noise(8, 8))} | {name: encoded(noise(8, 8, seed=1)) for name in TOOLS}
    path = write_folder(tmp_path / "x", files) if source == "folder" else write_zip(tmp_path / "x.zip", files)
    assert len(read(source, path)) == 1
    assert f"left out of tools or linked twice: {len(TOOLS)} (" in capsys.readouterr().out


def test_a_folder_within_a_hidden_one_is_read_when_it_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / ".cache" / "images", {"a.png": encoded(noise(8, 8))})
    assert len(read("folder", folder)) == 1
    assert len(read("folder", write_folder(tmp_path / ".own", {"a.png": encoded(noise(8, 8))}))) == 1


# Links


def test_linked_folders_are_followed_once_and_loops_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "else", {"b.png": encoded(noise(8, 8)), "deep/c.png": encoded(noise(8, 8, seed=1))})
    root = write_folder(tmp_path / "root", {"a.png": encoded(noise(8, 8, seed=2)), "own/d.png": encoded(noise(8, 8))})
    for name, target in (
        ("m", "../else"),
        ("n", "../else"),
        ("loop", "."),
        ("up", ".."),
        ("own/back", ".."),
        ("k", "own"),
    ):
        (root / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "else" / "back").symlink_to(root, target_is_directory=True)
    assert len(read("folder", root)) == 4
    assert "of tools or linked twice: 6 (" in capsys.readouterr().out
    assert len(list(squares(root, PARAMS))) == 4  # the features of a folder are of the same files


def test_a_link_that_leads_nowhere_is_an_unreadable_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path, {"a.png": encoded(noise(8, 8))})
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "here.png").symlink_to("a.png")
    os.mkfifo(root / "pipe.png")  # would be waited for without end
    with pytest.raises(
        InputError, match=r"2 of 4 images are unreadable: \S*gone\.jpg \(leads to no file\); \S*pipe\.png"
    ):
        read("folder", root)
    assert len(read("folder", root, unreadable="skip")) == 2
    (root / "folder").symlink_to("nowhere", target_is_directory=True)
    read("folder", root, unreadable="skip")
    assert f"no images: 1 ({root}/folder)" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to this user")
def test_a_folder_that_is_closed_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": encoded(noise(8, 8)), "b/b.png": encoded(noise(8, 8))})
    (tmp_path / "b").chmod(0)
    with pytest.raises(InputError, match=r"/b: the folder cannot be listed \(Permission denied\)"):
        read("folder", tmp_path)
    (tmp_path / "b").chmod(0o700)


def test_names_that_cannot_be_printed_stay_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, {"a.png": encoded(noise(8, 8)), "line\nbreak.jpg": b"x"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    with pytest.raises(InputError, match=r"line\\nbreak\.jpg") as error:
        read("folder", tmp_path)
    assert "\n" not in str(error.value)
    assert r"caf\udce9.txt" in capsys.readouterr().out


# EXIF


def photograph(kind: int, value: bytes, other: bytes = b"", big: bool = False) -> bytes:
    """A JPEG of 16×8 pixels whose EXIF block is written by hand: the type and value of its orientation, and a tag more.

    kind: 1 BYTE, 2 ASCII, 3 SHORT, 4 LONG, 5 RATIONAL, 7 UNDEFINED, …; value: as it stands in the file, big-endian.
    """
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8}
    count = len(value) // sizes[kind]
    n = 1 + bool(other)
    after = 8 + 2 + 12 * n + 4
    place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", after)
    entries = struct.pack(">HHI", 0x0112, kind, count) + place + other
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", n) + entries + bytes(4) + (value if len(value) > 4 else b"")
    buffer = io.BytesIO()
    stripes().save(buffer, "JPEG", exif=b"Exif\0\0" + block, quality=95)
    return buffer.getvalue()


def stripes() -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(0, 255, 16).astype(np.uint8), (8, 1))).convert("RGB")


ODD_TAGS = {
    "none": b"",
    "a text as a number": struct.pack(">HHI4s", 0x829A, 3, 1, b"\0\1\0\0") ,
    "a model of numbers": struct.pack(">HHI4s", 0x0110, 3, 1, b"\0\5\0\0"),
    "a resolution of text": struct.pack(">HHI4s", 0x011A, 2, 3, b"72\0\0"),
    "another IFD of text": struct.pack(">HHI4s", 0x8769, 2, 3, b"ab\0\0"),
    "a date of bytes": struct.pack(">HHI4s", 0x0132, 1, 4, b"\xff\xfe\xfd\xfc"),
    "a place beyond the end": struct.pack(">HHII", 0x010F, 2, 400, 90_000),
}  # fmt: skip

ORIENTATIONS = {
    "BYTE": (1, b"\6"), "ASCII": (2, b"6\0"), "SHORT": (3, b"\0\6"), "LONG": (4, b"\0\0\0\6"), "two": (3, b"\0\6\0\6"),
    "RATIONAL": (5, b"\0\0\0\6\0\0\0\1"), "UNDEFINED": (7, b"\6"), "FLOAT": (11, struct.pack(">f", 6)),
    "SIGNED": (8, b"\0\6"), "DOUBLE": (12, struct.pack(">d", 6)),
}  # fmt: skip


@pytest.mark.parametrize("tag", ODD_TAGS)
@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_a_turned_photograph_is_read_upright_whatever_the_types_of_its_exif(
    tmp_path: Path, kind: str, tag: str
) -> None:
    (image,) = read("folder", write_folder(tmp_path, {"a.jpg": photograph(*ORIENTATIONS[kind], ODD_TAGS[tag])})).pixels
    columns, rows = image.float().std((0, 1)).mean(), image.float().std((0, 2)).mean()
    assert rows < 3 < columns  # the stripes lie


@pytest.mark.parametrize(
    "value", [(3, b"\0\x09"), (2, b"up\0"), (5, bytes(8)), (3, b"\0\0"), (12, struct.pack(">d", np.nan))]
)
def test_a_photograph_whose_orientation_means_nothing_is_read_as_it_lies(
    tmp_path: Path, value: tuple[int, bytes]
) -> None:
    (image,) = read("folder", write_folder(tmp_path, {"a.jpg": photograph(*value)})).pixels
    assert image.float().std((0, 1)).mean() < 3


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(turn: int) -> None:
    from PIL import ImageOps

    image = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert np.array_equal(to_square(buffer.getvalue(), PARAMS, 0).transpose(1, 2, 0), np.asarray(expected))


# Paths


def test_a_path_may_be_a_pattern_in_any_part(tmp_path: Path) -> None:
    pictures = {name: encoded(noise(8, 8, seed=k)) for k, name in enumerate(("a/1.png", "b/2.png", "b/3.jpg"))}
    root = write_folder(tmp_path / "imgs", pictures)
    for pattern, count in (("*/*.png", 2), ("b/*", 2), ("**/*.png", 2), ("?", 3), ("[a]", 1), ("**", 3)):
        assert len(read("folder", root / pattern)) == count, pattern
    with pytest.raises(InputError, match=r"source 'folder' needs an existing folder of images, or a pattern"):
        read("folder", root / "*.gif")
    with pytest.raises(InputError, match=r"source 'folder' needs an existing folder"):
        read("folder", root / "a" / "1.png")
    write_zip(tmp_path / "p0.zip", {"a.png": pictures["a/1.png"]})
    write_zip(tmp_path / "p1.zip", {"a.png": pictures["b/2.png"]})
    assert torch.equal(read("zip", tmp_path / "p*.zip").pixels, read("folder", root / "*" / "*.png").pixels)


@pytest.mark.parametrize("name", ["my pictures", "set [1]", "what?", "~", " é "])
def test_a_name_with_odd_signs_is_a_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / name, {"a.png": encoded(noise(8, 8))})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read("folder", tmp_path / name)) == 1
    assert len(read("folder", at_home(f"~/{name}"))) == 1
    params = read_params(Path(__file__).parents[1] / "params.yaml")
    params["data"] |= {"source": "folder", "path": f"~/{name}"}
    assert inputs(params)["data"] == str(tmp_path / name)  # DVC knows no ~
    params["data"] |= {"path": f"~/{name}/*.png"}
    assert name in ("set [1]", "what?") or inputs(params)["data"] == str(tmp_path / name)
    assert matches(at_home(f"~nobody-of-this-name/{name}")) == []
