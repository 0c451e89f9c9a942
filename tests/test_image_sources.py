"""Images of a user's own: folders, archives and tables, with whatever lies in them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import BROKEN, encoded, noise, read, users_images, write_folder, write_zip
from PIL import Image

from deme_core.data.images import DataParams, to_model
from deme_core.data.sources import read_parts
from deme_core.data.square import to_square
from deme_core.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


# Folder and ZIP


def test_a_folder_of_mixed_images_is_read_whole(tmp_path: Path) -> None:
    images = read("folder", write_folder(tmp_path, users_images()))
    assert images.pixels.shape == (7, 3, 8, 8)
    assert images.pixels.dtype == torch.uint8
    assert np.array_equal(images.pixels[0].permute(1, 2, 0), np.asarray(noise(8, 8)))


def test_an_archive_holds_what_its_folder_holds(tmp_path: Path) -> None:
    archive = write_zip(
        tmp_path / "images.zip", users_images() | {"__MACOSX/._a.png": b"attributes", "notes.txt": b"x"}
    )
    folder = write_folder(tmp_path / "folder", users_images() | {"._a.png": b"attributes"})
    assert torch.equal(read("zip", archive).pixels, read("folder", folder).pixels)


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    images = read("folder", write_folder(tmp_path, users_images()), grey=True)
    assert images.pixels.shape == (7, 1, 8, 8)
    assert np.array_equal(images.pixels[0, 0], np.asarray(noise(8, 8, "L")))


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_all_unreadable_images_are_named_before_anything_is_written(tmp_path: Path, source: str) -> None:
    files = users_images() | BROKEN
    path = write_folder(tmp_path / "x", files) if source == "folder" else write_zip(tmp_path / "x.zip", files)
    with pytest.raises(InputError, match=r"3 of 10 images are unreadable: .*; .* leave them out with data") as error:
        read(source, path)
    assert all(name in str(error.value) for name in BROKEN)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)  # an address in memory says nothing


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_unreadable_images_are_left_out_when_told_to_and_counted(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = users_images() | BROKEN
    path = write_folder(tmp_path / "x", files) if source == "folder" else write_zip(tmp_path / "x.zip", files)
    images = read(source, path, unreadable="skip")
    assert torch.equal(images.pixels, read("folder", write_folder(tmp_path / "good", users_images())).pixels)
    said = capsys.readouterr().out
    assert said.startswith("left out 3 of 10 images")
    assert all(name in said for name in BROKEN)


def test_a_set_without_a_readable_image_is_refused_even_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 of 3 images are unreadable"):
        read("folder", write_folder(tmp_path, BROKEN), unreadable="skip")


def test_of_many_unreadable_images_ten_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{k:02}.png": b"" for k in range(25)})
    with pytest.raises(
        InputError, match=r"25 of 25 images are unreadable: \S*00\.png .*09\.png .*; and 15 more;"
    ) as error:
        read("folder", tmp_path)
    assert "10.png" not in str(error.value)


def test_a_picture_too_large_to_be_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"1 of 2 images are unreadable: \S*bomb\.png"):
        read("folder", write_folder(tmp_path, {"a.png": encoded(noise(8, 8)), "bomb.png": encoded(noise(64, 64))}))


def test_a_damaged_entry_of_an_archive_is_one_unreadable_image(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"a.png": encoded(noise(64, 64)), "b.png": encoded(noise(64, 64, seed=1))})
    data = bytearray(archive.read_bytes())
    data[200] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"1 of 2 images are unreadable: \S*x\.zip/a\.png \(.*CRC"):
        read("zip", archive)
    archive.write_bytes(data[:5000])
    with pytest.raises(InputError, match=r"x\.zip: no whole ZIP archive"):
        read("zip", archive)


@pytest.mark.parametrize("source", ["folder", "zip", "parquet"])
def test_a_path_that_is_not_there_is_refused(tmp_path: Path, source: str) -> None:
    for path in ("no/such/place", None):
        with pytest.raises(InputError, match=rf"data\.path = .*source '{source}' needs (an )?existing"):
            read_parts(DataParams(source=source, path=path, size=8, held_out=0.0))


@pytest.mark.parametrize("source", ["folder", "zip", "parquet", "digits"])
def test_a_source_without_a_test_split_needs_a_share(tmp_path: Path, source: str) -> None:
    folder = write_folder(tmp_path / "x", users_images())
    archive = write_zip(tmp_path / "x.zip", users_images())
    path = {"folder": folder, "zip": archive, "digits": None}
    if source == "parquet":
        path["parquet"] = write_parquet(tmp_path / "x.parquet", list(users_images().values()))
    with pytest.raises(InputError, match=f"held_out = None: source '{source}' has no test split of its own"):
        read_parts(DataParams(source=source, path=path[source] and str(path[source]), size=8, held_out=None))


# Crop and filter


def stripe(width: int, height: int) -> Image.Image:
    """Brightness tells the column."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def test_a_random_crop_stays_inside_moves_and_is_the_same_every_time(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{k:02}.png": encoded(stripe(64, 8)) for k in range(40)})
    images = read("folder", tmp_path, crop="random").pixels.float().mean((1, 2, 3))
    assert torch.equal(images, read("folder", tmp_path, crop="random").pixels.float().mean((1, 2, 3)))
    assert images.min() < 60
    assert images.max() > 195
    centre = read("folder", tmp_path).pixels.float().mean((1, 2, 3))
    assert (centre - 127.5).abs().max() < 2


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "lanczos", "box"])
def test_every_filter_is_antialiased(tmp_path: Path, resize: str) -> None:
    checkers = Image.fromarray(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8))
    write_folder(tmp_path, {"a.png": encoded(checkers)})
    assert to_model(read("folder", tmp_path, resize=resize).pixels).abs().max() < 0.2


# Tables


def write_parquet(path: Path, images: list[Any], column: str = "image") -> Path:
    datasets = pytest.importorskip("datasets", reason="parquet files are read by the optional package datasets")
    rows = {column: [{"bytes": image, "path": None} for image in images], "other": list(range(len(images)))}
    datasets.Dataset.from_dict(rows).cast_column(column, datasets.Image(decode=False)).to_parquet(path)
    return path


def test_parquet_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    files = list(users_images().values())
    write_parquet(tmp_path / "part-1.parquet", files[3:])
    write_parquet(tmp_path / "part-0.parquet", files[:3])
    images = read("parquet", tmp_path / "part-*.parquet")
    expected = [read("folder", write_folder(tmp_path / str(k), {"x.png": file})).pixels for k, file in enumerate(files)]
    assert torch.equal(images.pixels, torch.cat(expected))
    assert torch.equal(read("parquet", tmp_path / "part-0.parquet").pixels, images.pixels[:3])


def test_the_column_of_a_parquet_file_is_a_param_and_its_rows_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [encoded(noise(8, 8)), b"", None, b"x"], column="img")
    with pytest.raises(
        InputError, match=r"data\.column = 'image': \S*x\.parquet has no such column; it has img, other"
    ):
        read("parquet", path)
    with pytest.raises(InputError, match=r"3 of 4 images are unreadable: \S*x\.parquet\[1\] .*\[2\] .*\[3\] "):
        read("parquet", path, column="img")
    assert len(read("parquet", path, column="img", unreadable="skip")) == 1


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="parquet files are read by the optional package datasets")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"data\.path = '\S*x\.parquet': cannot be loaded \(.+\); offline"):
        read("parquet", tmp_path / "x.parquet")


def test_a_hub_data_set_has_its_splits_column_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="hub data sets are read by the optional package datasets")
    asked = []

    def load_dataset(name: str, **options: Any) -> Any:
        asked.append((name, options))
        if name != "owner/name":
            raise ConnectionError(f"Couldn't reach\n'{name}' on the Hub")
        image = {"bytes": encoded(noise(8, 8, seed=len(asked))), "path": None}
        return datasets.Dataset.from_dict({"img": [image] * (3 if options["split"] == "test" else 5)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = {"source": "hub", "path": "owner/name", "size": 8, "column": "img", "revision": "abc"}
    parts = read_parts(DataParams(**hub, held_out=None))
    assert {part: len(images) for part, images in parts.items()} == {"train": 5, "validation": 0, "heldout": 3}
    parts = read_parts(DataParams(**hub, held_out=0.4, split="train[:5]"))
    assert {part: len(images) for part, images in parts.items()} == {"train": 3, "validation": 0, "heldout": 2}
    assert asked == [("owner/name", {"revision": "abc", "split": split}) for split in ("train", "test", "train[:5]")]
    with pytest.raises(
        InputError, match=re.escape("data.path = 'no/where': cannot be loaded (Couldn't reach 'no/where'")
    ):
        read_parts(DataParams(**hub | {"path": "no/where"}, held_out=None))
    with pytest.raises(InputError, match=r"data\.path = None: source 'hub' needs the id"):
        read_parts(DataParams(**hub | {"path": None}, held_out=None))


def test_a_stream_gives_the_first_images_of_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="hub data sets are read by the optional package datasets")
    files = [encoded(noise(12, 8, seed=k)) for k in range(6)]
    path, local, asked = write_parquet(tmp_path / "x.parquet", files, column="img"), datasets.load_dataset, []

    def load_dataset(name: str, **options: Any) -> Any:
        asked.append(options.pop("revision"))
        return local("parquet", data_files=[str(path)], **options | {"split": "train"})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = {"source": "hub", "path": "owner/name", "size": 8, "column": "img", "held_out": 0.0}
    whole, first = (read_parts(DataParams(**hub, stream=stream))["train"] for stream in (None, 4))
    assert (len(whole), len(first)) == (6, 4) and torch.equal(first.pixels, whole.pixels[:4])
    parts = read_parts(DataParams(**hub | {"held_out": None}, stream=2))
    assert {part: len(images) for part, images in parts.items()} == {"train": 2, "validation": 0, "heldout": 2}
    with pytest.raises(InputError, match=r"data\.column = 'image': owner/name has no such column; it has img, other"):
        read_parts(DataParams(**hub | {"column": "image"}, stream=2))
    assert set(asked) == {None}


def test_a_stream_that_breaks_off_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="hub data sets are read by the optional package datasets")

    def rows() -> Iterator[dict[str, Any]]:
        yield {"image": {"bytes": encoded(noise(8, 8)), "path": None}}
        raise ConnectionError("reset by peer")

    def load_dataset(name: str, **options: Any) -> Any:
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"data\.path = 'owner/name': cannot be loaded \(reset by peer\)"):
        read("hub", "owner/name", stream=3)


def test_many_images_keep_their_order_and_their_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{k}.png": encoded(noise(24, 8, seed=k)) for k in range(8)} | {"5.png": b"none"}
    folder = write_folder(tmp_path / "images", files)
    whole = read("folder", folder, crop="random", unreadable="skip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deme_core.data.decode.AHEAD", 3)
    monkeypatch.setattr("deme_core.data.images.IN_MEMORY", 10)
    again = read("folder", folder, crop="random", unreadable="skip")
    assert len(again) == 7 and torch.equal(again.pixels, whole.pixels)
    params = DataParams(source="folder", path=str(folder), size=8, held_out=0.0, crop="random")
    for row, k in enumerate((0, 1, 2, 3, 4, 6, 7)):
        assert np.array_equal(again.pixels[row], to_square(files[f"{k}.png"], params, k))


def test_only_the_hub_is_streamed() -> None:
    with pytest.raises(InputError, match=r"data\.stream = 3: only images of the hub are streamed"):
        DataParams(source="folder", path=".", size=8, held_out=0.0, stream=3)
    with pytest.raises(InputError, match=r"data\.stream = 0: must be null or at least 1"):
        DataParams(source="hub", path="x/y", size=8, held_out=0.0, stream=0)
    with pytest.raises(InputError, match=r"data\.split = 'train\[:9\]': a stream takes no slices"):
        DataParams(source="hub", path="x/y", size=8, held_out=0.0, stream=5, split="train[:9]")


@pytest.mark.parametrize("source", ["hub", "parquet"])
def test_without_the_package_the_remedy_is_named(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(InputError, match=rf"source = '{source}' needs the package `datasets`: pip install"):
        read(source, tmp_path / "x.parquet")


def test_a_validation_part_of_one_image_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{k}.png": encoded(noise(8, 8, seed=k)) for k in range(20)})
    message = r"^params: data\.validation = 0\.5: leaves one of 2 held-out images for choices, of which there is no int"
    folder = {"source": "folder", "path": str(tmp_path), "size": 8}
    with pytest.raises(InputError, match=message):
        read_parts(DataParams(**folder, held_out=0.1, validation=0.5))
    assert len(read_parts(DataParams(**folder, held_out=0.2, validation=0.5))["validation"]) == 2
