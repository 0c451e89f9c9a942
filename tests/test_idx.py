"""idx files: what is written comes back, and a file of another kind or a damaged one is named."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import idx_bytes

from deme_core.data.idx import read_idx_file
from deme_core.data.images import DataParams, Images, pixels_hash
from deme_core.data.sources import read_parts
from deme_core.errors import InputError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


def write_set(folder: Path, *, side: int = 4, n: int = 20, packed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An idx data set whose test part holds n // 2 images; returns the training images and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    written = []
    for prefix, count in (("t10k", n // 2), ("train", n)):
        images = rng.integers(0, 256, (count, side, side), np.uint8)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for name, values in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            data = idx_bytes(values)
            path = folder / f"{prefix}-{name}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
        written = [images, labels]
    return written[0], written[1]


def parts(folder: Path, size: int = 4, held_out: float | None = None) -> dict[str, Images]:
    return read_parts(DataParams(source="idx", path=str(folder), size=size, held_out=held_out))


@pytest.mark.parametrize("packed", [False, True])
def test_the_test_files_are_the_held_out_part(tmp_path: Path, packed: bool) -> None:
    images, labels = write_set(tmp_path, packed=packed)
    read = parts(tmp_path)
    assert np.array_equal(read["train"].pixels[:, 0].numpy(), images)
    assert np.array_equal(read["train"].labels.numpy(), labels)
    assert read["heldout"].pixels.shape == (10, 1, 4, 4)
    assert read["train"].pixels.dtype == torch.uint8


def test_a_share_is_held_out_of_the_training_files_and_the_test_files_are_not_needed(tmp_path: Path) -> None:
    write_set(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    read = parts(tmp_path, held_out=0.2)
    assert (len(read["train"]), len(read["heldout"])) == (16, 4)
    with pytest.raises(InputError, match=r"needs exactly one file \*t10k-images\*, holds \[\]"):
        parts(tmp_path)


def test_larger_images_are_smoothed_down_and_smaller_ones_padded(tmp_path: Path) -> None:
    images, _ = write_set(tmp_path, side=4)
    padded = parts(tmp_path, size=7)["train"].pixels[:, 0]
    assert np.array_equal(padded[:, 1:5, 1:5].numpy(), images)
    assert int(padded.sum()) == int(images.sum())
    small = parts(tmp_path, size=2)["train"].pixels[:, 0].float()
    assert small.mean() == pytest.approx(images.mean(), rel=0.02)
    assert small.std() < 0.6 * images.std()  # every second pixel alone would keep the spread


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x00\x00\x0d\x03" + bytes(12), r"starts with 00000d03, an idx file of unsigned bytes in 3 dimension\(s\)"),
        (idx_bytes(np.zeros(3, np.uint8)), "starts with 00000801"),
        (b"\x89PNG\r\n\x1a\n", "starts with 89504e47.*is it the right file"),
        (idx_bytes(np.zeros((2, 4, 4), np.uint8))[:-1], "holds 31 values, its header announces 2×4×4"),
        (idx_bytes(np.zeros((2, 4, 4), np.uint8))[:9], "holds 0 values, its header announces 2×0×0"),
        (gzip.compress(idx_bytes(np.zeros((2, 4, 4), np.uint8)), mtime=0)[:-12], "damaged gzip file"),
        (gzip.compress(b"x" * 9, mtime=0)[:12] + b"damaged", "damaged gzip file"),
    ],
)
def test_a_file_that_is_no_whole_idx_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    write_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(InputError, match=rf"train-images-idx3-ubyte: {message}"):
        parts(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(InputError, match="20 train images but 3 labels"):
        parts(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"needs exactly one file \*train-images\*, holds \['train-images-idx3-ubyte', "
    ):
        parts(tmp_path)


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 3, 4), np.uint8)))
    with pytest.raises(InputError, match="idx images of 4×3 pixels: only square ones are read"):
        parts(tmp_path)


@pytest.mark.parametrize("path", [None, "no/such/folder"])
def test_a_folder_that_is_not_there_is_refused(path: str | None) -> None:
    with pytest.raises(InputError, match=r"data\.path = .*source 'idx' needs an existing folder of idx files"):
        read_parts(DataParams(source="idx", path=path, size=4, held_out=None))


@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)])
def test_values_come_back_as_they_were(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "file").write_bytes(idx_bytes(values))
    assert np.array_equal(read_idx_file(tmp_path / "file", len(shape)), values)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_at_16_pixels_is_fixed_for_ever() -> None:
    """What was held out of the base in zoo/ must stay held out."""
    read = parts(FASHION_MNIST, size=16)
    assert {part: (len(images), pixels_hash(images.pixels)[:16]) for part, images in read.items() if len(images)} == {
        "train": (60000, "0c780954262c50ad"),
        "heldout": (10000, "09551305fb767a04"),
    }
