"""Data: the split is fixed, stratified and disjoint; a folder's images are read alike, and a broken one is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_of, python
from PIL import Image
from sklearn.datasets import load_digits

from deme_core.data.files import read_folder
from deme_core.data.images import (
    PARTS,
    DataParams,
    Images,
    load_part,
    pixels_hash,
    save_part,
    split,
    to_model,
)
from deme_core.data.sources import SOURCES, read_digits, read_parts
from deme_core.errors import InputError

DIGITS = DataParams(source="digits", path=None, size=8, held_out=0.2)


def folder(path: Path, size: int = 8) -> Images:
    return read_folder(DataParams(source="folder", path=str(path), size=size, held_out=0.0))


def gradient(width: int, height: int) -> Image.Image:
    """Red rises to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 40)], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def digits_parts() -> dict[str, Images]:
    return read_parts(DIGITS)


# Digits


def test_digits_are_scikit_learns_scaled_to_8_bits() -> None:
    images = read_digits(DIGITS)
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.dtype == torch.uint8
    assert (int(images.pixels.min()), int(images.pixels.max())) == (0, 255)
    raw = load_digits()
    assert np.array_equal(images.pixels[:, 0].numpy(), np.rint(raw.images * 255 / 16))
    assert np.array_equal(images.labels.numpy(), raw.target)
    x = to_model(images.pixels)
    assert (x.dtype, x.min(), x.max()) == (torch.float32, -1.0, 1.0)


def test_digits_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.size = 32: the digits are 8×8; set data\.size=8"):
        read_parts(DataParams(source="digits", path=None, size=32, held_out=0.2))


def test_an_unknown_source_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=rf"data\.source = 'digit': known sources are {', '.join(SOURCES)}"):
        read_parts(DataParams(source="digit", path=None, size=8, held_out=0.2))


# Split


def test_the_split_of_the_digits_is_1437_and_360_stratified_and_disjoint(digits_parts: dict[str, Images]) -> None:
    whole, train, heldout = read_digits(DIGITS), digits_parts["train"], digits_parts["heldout"]
    assert (len(train), len(heldout)) == (1437, 360)
    rows = lambda images: sorted(  # noqa: E731
        (label, *pixels)
        for label, pixels in zip(images.labels.tolist(), images.pixels.flatten(1).tolist(), strict=True)
    )
    assert sorted(rows(train) + rows(heldout)) == rows(whole)
    for digit in range(10):
        share = (heldout.labels == digit).sum() / (whole.labels == digit).sum()
        assert 0.19 < share < 0.21


def test_the_split_is_fixed_for_ever(digits_parts: dict[str, Images]) -> None:
    """What was held out of the bases in zoo/ must stay held out."""
    assert {part: pixels_hash(digits_parts[part].pixels)[:16] for part in ("train", "heldout")} == {
        "train": "44a58eba5469fddd",
        "heldout": "21c8b70ba1e7f08b",
    }


def test_validation_is_a_share_of_what_is_held_out_and_moves_no_image_into_training(
    digits_parts: dict[str, Images],
) -> None:
    halves = read_parts(replace(DIGITS, validation=0.5))
    assert list(halves) == list(PARTS)
    assert torch.equal(halves["train"].pixels, digits_parts["train"].pixels)
    assert [len(halves[part]) for part in ("validation", "heldout")] == [180, 180]
    rows = [{bytes(image.numpy()) for image in parts} for parts in (
        halves["validation"].pixels, halves["heldout"].pixels, digits_parts["heldout"].pixels,
    )]  # fmt: skip
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == rows[2]
    assert not len(read_parts(replace(DIGITS, held_out=0.0, validation=0.5))["validation"])
    with pytest.raises(InputError, match=r"data\.validation = 1.0: must lie in \[0, 1\)"):
        replace(DIGITS, validation=1.0)


def test_images_without_labels_are_split_disjointly() -> None:
    pixels = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    parts = split(Images(pixels, torch.full((50,), -1)), 0.3, "data.held_out")
    train, heldout = (set(part.pixels.flatten().tolist()) for part in parts)
    assert (len(train), len(heldout)) == (35, 15)
    assert train | heldout == set(range(50))


def test_a_source_without_a_test_split_needs_a_share() -> None:
    with pytest.raises(InputError, match="held_out = None: source 'digits' has no test split of its own; give a share"):
        read_parts(DataParams(source="digits", path=None, size=8, held_out=None))


def test_nothing_held_out_leaves_everything_to_train() -> None:
    images = read_digits(DIGITS)
    train, heldout = split(images, 0.0, "data.held_out")
    assert torch.equal(train.pixels, images.pixels)
    assert heldout.pixels.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("labels", [[-1], [0, 0, 0, 0, 1]])
def test_a_set_too_small_to_split_is_refused(labels: list[int]) -> None:
    images = Images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels))
    with pytest.raises(InputError, match=r"params: data\.held_out = 0\.5 of \d images"):
        split(images, 0.5, "data.held_out")


def test_a_part_survives_the_file(tmp_path: Path, digits_parts: dict[str, Images]) -> None:
    for name in ("a", "b"):
        save_part(tmp_path / name, "heldout", digits_parts["heldout"])
    loaded = load_part(tmp_path / "a", "heldout")
    assert torch.equal(loaded.pixels, digits_parts["heldout"].pixels)
    assert torch.equal(loaded.labels, digits_parts["heldout"].labels)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_an_unknown_or_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part 'test' of a data set is unknown; parts are train, validation, heldout"):
        load_part(tmp_path, "test")
    with pytest.raises(InputError, match=r"train\.safetensors: no such file"):
        load_part(tmp_path, "train")


def test_pixels_hash_tells_values_and_shapes_apart() -> None:
    pixels = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    others = [pixels, pixels + 1, pixels.view(1, 4, 2, 2), pixels.flip(0)]
    assert len({pixels_hash(other) for other in others}) == 4
    assert pixels_hash(pixels.clone()) == pixels_hash(pixels)
    strided = pixels.repeat(1, 1, 1, 2)[..., :2]
    assert pixels_hash(strided) == pixels_hash(strided.contiguous())


# Folder


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for k, name in enumerate(["b.png", "a.PNG", "sub/c.bmp", "sub/deep/d.webp"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        options = {"lossless": True} if name.endswith("webp") else {}
        Image.new("RGB", (8, 8), (k * 10, 0, 0)).save(tmp_path / name, **options)
    (tmp_path / "notes.txt").write_text("no image")
    images = folder(tmp_path)
    assert images.pixels[:, 0, 0, 0].tolist() == [10, 0, 20, 30]
    assert images.labels.tolist() == [-1] * 4


@pytest.mark.parametrize(("width", "height"), [(8, 8), (16, 8), (8, 24), (64, 48), (5, 3), (301, 200)])
def test_images_of_any_size_are_cropped_in_the_middle(tmp_path: Path, width: int, height: int) -> None:
    gradient(width, height).save(tmp_path / "a.png")
    (image,) = folder(tmp_path).pixels.float()
    assert image.shape == (3, 8, 8)
    side = min(width, height)
    for channel, long, axis in ((0, width, 1), (1, height, 0)):
        profile = image[channel].mean(1 - axis)
        assert profile.mean() == pytest.approx(127.5, abs=6)  # the middle of the picture
        assert (profile[1:] >= profile[:-1]).all()
        assert profile[-1] - profile[0] == pytest.approx(255 * side / long * 7 / 8, abs=40)
    assert (image[2] == 40).all()


def test_an_image_of_the_very_size_is_taken_as_it_is(tmp_path: Path) -> None:
    gradient(8, 8).save(tmp_path / "a.png")
    assert np.array_equal(folder(tmp_path).pixels[0].permute(1, 2, 0), np.asarray(gradient(8, 8)))


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    image = gradient(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.png")
    turned, upright = folder(tmp_path).pixels
    assert torch.equal(turned, upright)
    assert not torch.equal(turned, turned.transpose(1, 2))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path, mode: str) -> None:
    image = gradient(8, 8).convert("RGBA" if mode == "LA" else "RGB").convert("L" if mode == "LA" else mode)
    if mode == "LA":
        image.putalpha(90)
    if mode == "RGBA":
        image.putalpha(10)
    image.save(tmp_path / "a.png")
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    pixels = folder(tmp_path).pixels[0].permute(1, 2, 0)
    assert np.array_equal(pixels, expected)
    if mode == "RGBA":
        assert np.array_equal(pixels, np.asarray(gradient(8, 8)))  # transparency is dropped, not blended
    if mode in ("L", "LA"):
        assert np.array_equal(pixels[..., 0], np.asarray(gradient(8, 8).convert("L")))


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", "truncated"], ids=["empty", "text", "header", "truncated"]
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_that_is_no_whole_image_is_named(tmp_path: Path, data: bytes | str, suffix: str) -> None:
    gradient(64, 64).save(tmp_path / f"a.{suffix}")
    broken = tmp_path / f"broken.{suffix}"
    if data == "truncated":
        data = (tmp_path / f"a.{suffix}").read_bytes()
        data = data[: len(data) // 2]
    broken.write_bytes(data)
    with pytest.raises(InputError, match=rf"1 of \d images are unreadable: \S*broken\.{suffix} \(.*\); remove them"):
        folder(tmp_path)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.int32, "tiff"), (np.float32, "tiff")])
def test_an_image_of_more_than_8_bits_is_scaled_or_refused(tmp_path: Path, dtype: type, suffix: str) -> None:
    values = np.linspace(0, 1 if dtype is np.float32 else 65535, 64).reshape(8, 8).astype(dtype)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    try:
        (image,) = folder(tmp_path).pixels
    except InputError as error:
        assert f"deep.{suffix}" in str(error)
    else:
        assert len(image[0].unique()) == 64


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        InputError, match=rf"{re.escape(str(tmp_path))}: no image found; expected files ending in \.bmp"
    ):
        folder(tmp_path)


@pytest.mark.parametrize("path", [None, "no/such/folder"])
def test_a_folder_that_is_not_there_is_refused(path: str | None) -> None:
    with pytest.raises(InputError, match=r"data\.path = .*source 'folder' needs an existing folder of images"):
        read_parts(DataParams(source="folder", path=path, size=8, held_out=0.0))


def test_the_split_is_the_same_in_every_process(digits_parts: dict[str, Images]) -> None:
    code = (
        "import json; from deme_core.data.images import *; from deme_core.data.sources import read_parts;"
        "parts = read_parts(DataParams(source='digits', path=None, size=8, held_out=0.2));"
        "print(json.dumps({part: pixels_hash(images.pixels) for part, images in parts.items()}))"
    )
    run = python(code, PYTHONHASHSEED="7")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {part: pixels_hash(images.pixels) for part, images in digits_parts.items()}
