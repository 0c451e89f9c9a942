"""Captions of images: the sources that have them, their place on disk, and what is said where they do not fit."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from text_to_image import write_image

from deme_core.data.images import DataParams, Images, load_part, save_part, split
from deme_core.data.sources import SOURCES, read_parts
from deme_core.errors import InputError

JSONL = [{"file_name": "a.png", "text": "an a"}, {"file_name": "b/b.png", "text": ["a b", "b"]}]


def params(source: str, path: Path | None, **changes: Any) -> DataParams:
    given = {"source": source, "path": path and str(path), "size": 8, "held_out": 0.5, "grey": True, "captions": "text"}
    return DataParams(**given | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and their metadata.jsonl."""
    root = tmp_path / "images"
    write_image(root / "a.png")
    write_image(root / "b" / "b.png")
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in JSONL))
    return root


def zipped(folder: Path) -> Path:
    path = folder.parent / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_and_an_archive_have_the_captions_of_their_metadata(folder: Path) -> None:
    expected = (("an a",), ("a b", "b"))
    assert SOURCES["folder"].read(params("folder", folder)).captions == expected
    assert SOURCES["zip"].read(params("zip", zipped(folder))).captions == expected
    assert SOURCES["folder"].read(params("folder", folder, captions=None)).captions is None


def test_a_csv_may_lie_beside_its_images_and_name_one_twice(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text('file_name,title\na.png,"one, two"\na.png,three\n')
    (folder / "b" / "metadata.csv").write_text("file_name,title\nb.png,four\n")
    for source, path in (("folder", folder), ("zip", zipped(folder))):
        read = SOURCES[source].read(params(source, path, captions="title"))
        assert read.captions == (("one, two", "three"), ("four",))


def test_an_image_that_is_left_out_takes_its_captions_along(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no image")
    read = SOURCES["folder"].read(params("folder", folder, unreadable="skip"))
    assert read.captions == (("a b", "b"),)


def test_parquet_has_the_captions_of_a_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="parquet files are read by the optional package datasets")
    write_image(tmp_path / "a.png")
    image = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    table = datasets.Dataset.from_dict({"image": [image] * 2, "text": ["x", "y"]})
    table.cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "t.parquet")
    read = SOURCES["parquet"].read(params("parquet", tmp_path / "t.parquet"))
    assert read.captions == (("x",), ("y",))
    with pytest.raises(InputError, match=r"data.captions = 'caption': .* has no such column; it has image, text"):
        SOURCES["parquet"].read(params("parquet", tmp_path / "t.parquet", captions="caption"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (JSONL[:1], r"images without captions: 1 \(.*b\.png\) of 2 have none in 'text'"),
        ([JSONL[0], {"file_name": "b/b.png", "text": " "}], "images without captions: 1"),
        ([*JSONL, {"file_name": "c.png", "text": "c"}], r"captions without images: 1 \(.*c\.png\)"),
        ([{"file_name": "a.png"}], "a row has no 'text', only file_name"),
        ([{"text": "a"}], "a row has no 'file_name'"),
        (["a"], "a line is no JSON object"),
    ],
)
def test_images_and_captions_must_belong_together(folder: Path, rows: list[Any], message: str) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, path in (("folder", folder), ("zip", zipped(folder))):
        with pytest.raises(InputError, match=message) as error:
            SOURCES[source].read(params(source, path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,text\na.png,a cat, on a mat\nb/b.png,b\n", "line 2 has 3 cells, the header 2; .* double quotes"),
        ("file_name,text,tags\na.png,a cat, on a mat, x\n", "line 2 has 4 cells"),
        ("file_name,text\na.png\nb/b.png,b\n", "line 2 has 1 cells"),
        ('file_name,text\na.png,"a cat\nb/b.png,b\n', "unexpected end of data"),
        ('file_name,text\na.png,"a" cat\nb/b.png,b\n', "expected after"),
        ("file_name,text,text\na.png,a,b\nb/b.png,c,d\n", "a column stands twice in its header"),
        (f'"a\nb","a\nb",{"9" * 5000}\n', r"a column stands twice in its header, a b, a b, 9{99}"),
        ("file_name;text\na.png;a\n", "a row has no 'file_name', only file_name;text"),
    ],
)
def test_no_part_of_a_csv_is_lost(folder: Path, table: str, message: str) -> None:
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(table)
    for source, path in (("folder", folder), ("zip", zipped(folder))):
        with pytest.raises(InputError, match=rf"metadata\.csv: .*{message}") as error:
            SOURCES[source].read(params(source, path))
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("cell", ["5", "[5]", '["a", 5]', "true", '{"raw": "a"}', '[["a"]]'])
def test_a_caption_that_is_no_text_is_refused(folder: Path, cell: str) -> None:
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": {cell}}}\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl, \S*a\.png: .* is of type \w+, a caption is a text"):
        SOURCES["folder"].read(params("folder", folder))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"file_name": "a.png", "text": "a", "text": "b"}', "'text' stands twice in one object"),
        (r'{"file_name": "a.png", "text": "half \ud83d"}', "surrogates not allowed"),
        ("[" * 100_000, "its brackets go too deep"),
    ],
)
def test_a_row_that_would_lose_a_caption_is_refused(folder: Path, row: str, message: str) -> None:
    (folder / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match=rf"metadata\.jsonl: cannot be read \(.*{message}"):
        SOURCES["folder"].read(params("folder", folder))


def test_signs_that_some_take_for_the_end_of_a_line_are_part_of_a_caption(folder: Path) -> None:
    rows = [{"file_name": "a.png", "text": "a\u2028b \U0001f600"}, {"file_name": "b/b.png", "text": "c\x85d"}]
    table = "\r\n".join(json.dumps(row, ensure_ascii=k == 0) for k, row in enumerate(rows))
    (folder / "metadata.jsonl").write_text(table, encoding="utf-8")
    assert SOURCES["folder"].read(params("folder", folder)).captions == (("a\u2028b \U0001f600",), ("c\x85d",))


def test_missing_and_broken_metadata_are_named(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"metadata\.jsonl: cannot be read"):
        SOURCES["folder"].read(params("folder", folder))
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no metadata\.jsonl and no metadata\.csv; .* data\.captions=null"):
        SOURCES["folder"].read(params("folder", folder))


def test_a_split_keeps_images_and_captions_together_on_disk(tmp_path: Path) -> None:
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    images = Images(pixels, torch.full((10,), -1), tuple((f"é {k}", f"{k}") for k in range(10)))
    for part, subset in zip(("train", "heldout"), split(images, 0.3, "data.held_out"), strict=True):
        save_part(tmp_path, part, subset)
        read = load_part(tmp_path, part)
        assert read.captions == tuple((f"é {k}", f"{k}") for k in read.pixels.flatten().tolist())
    assert load_part(tmp_path, "heldout").prompts == tuple(
        read.captions[k][k % 2] for k in range(len(read))
    )  # each image once, its captions in turn
    save_part(tmp_path, "train", Images(pixels, images.labels))
    assert load_part(tmp_path, "train").captions is None
    assert load_part(tmp_path, "train").prompts == ()


def test_the_digits_are_enlarged_and_captioned() -> None:
    parts = read_parts(DataParams(source="digits_t2i", path=None, size=32, held_out=0.2))
    small = read_parts(DataParams(source="digits", path=None, size=8, held_out=0.2))
    for part in ("train", "heldout"):
        images = parts[part]
        assert images.pixels.shape[1:] == (1, 32, 32)
        assert torch.equal(images.labels, small[part].labels)  # the same split
        assert len(images.captions) == len(images)
        assert all(images.captions)
        again = torch.nn.functional.avg_pool2d(images.pixels.float(), 4)
        assert (again - small[part].pixels.float()).abs().mean() < 20
    with pytest.raises(InputError, match=r"data.size = 4: .* data.size=32"):
        read_parts(DataParams(source="digits_t2i", path=None, size=4, held_out=0.2))
