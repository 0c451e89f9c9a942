"""Archives of images."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_of
from PIL import Image
from sampled import fake, fake_sampler

from deme_core.data.archive import PER_ARCHIVE, read_images, write_archive, write_grid
from deme_core.errors import InputError
from deme_core.sampling.sample import write_missing
from deme_core.seeds import SeedBlock


def test_archives_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    sampler, images = fake_sampler(block=64), 2 * PER_ARCHIVE + 100
    write_missing(sampler, fake, images, tmp_path / "one")
    for rank in range(2):
        write_missing(sampler, fake, images, tmp_path / "two", rank, 2)
    for rank in (2, 0, 1):
        write_missing(sampler, fake, images, tmp_path / "three", rank, 3)
    assert list(files_of(tmp_path / "one")) == ["0000.zip", "0001.zip", "0002.zip"]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "three")
    written = torch.cat(list(read_images(tmp_path / "one", images)))
    assert torch.equal(written, sampler.images(fake, SeedBlock.EVALUATION, 0, images))


def test_archives_that_are_there_are_not_sampled_again(tmp_path: Path) -> None:
    sampler, images = fake_sampler(block=500), 2 * PER_ARCHIVE
    write_missing(sampler, fake, images, tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "0001.zip").unlink()
    calls = []

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return fake(x, t)

    write_missing(sampler, counted, images, tmp_path)
    assert calls == [500, 500]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("channels", [1, 3])
def test_images_survive_the_archive(tmp_path: Path, channels: int) -> None:
    pixels = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_archive(tmp_path / "a", 0, pixels)
    write_archive(tmp_path / "b", 0, pixels)
    assert torch.equal(torch.cat(list(read_images(tmp_path / "a", 5))), pixels)
    assert torch.equal(torch.cat(list(read_images(tmp_path / "a", 3))), pixels[:3])
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_entries_are_numbered_stored_and_without_a_time(tmp_path: Path) -> None:
    write_archive(tmp_path, 2, torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    with zipfile.ZipFile(tmp_path / "0002.zip") as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == ["002000.png", "002001.png", "002002.png"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def chunks(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    names, at = [], 8
    while at < len(png):
        names.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4])
    return names


def test_a_png_holds_pixels_and_nothing_else(tmp_path: Path) -> None:
    pixels = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    write_archive(tmp_path, 0, pixels)
    write_grid(tmp_path / "grid.png", pixels, columns=1)
    with zipfile.ZipFile(tmp_path / "0000.zip") as archive:
        png = archive.read("000000.png")
    for image in (png, (tmp_path / "grid.png").read_bytes()):
        assert set(chunks(image)) == {b"IHDR", b"IDAT", b"IEND"}
        assert Image.open(io.BytesIO(image)).info == {}


@pytest.mark.parametrize("count", [6, 1000])
def test_fewer_images_than_asked_for_are_refused(tmp_path: Path, count: int) -> None:
    write_archive(tmp_path, 0, torch.zeros(5, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(InputError, match=rf"{count} images are asked for, 5 are there; raise sample\.images"):
        list(read_images(tmp_path, count))


def test_a_grid_is_read_like_text(tmp_path: Path) -> None:
    pixels = torch.arange(1, 4, dtype=torch.uint8)[:, None, None, None].expand(3, 1, 2, 2)
    write_grid(tmp_path / "grid.png", pixels, columns=2, scale=2)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (14, 14)
    assert (sheet[2:6, 2:6] == 1).all()
    assert (sheet[2:6, 8:12] == 2).all()
    assert (sheet[8:12, 2:6] == 3).all()
    assert (sheet[8:12, 8:12] == 255).all()
