"""Images of a data set: uint8 tensors with labels and captions, split once into a training and a held-out part."""

import hashlib
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from deme_core.amounts import amount
from deme_core.errors import InputError
from deme_core.params import check
from deme_core.tensor_files import as_bytes
from deme_core.tensors import map_tensors, write_tensors
from deme_core.work import ROOT

PARTS = ("train", "validation", "heldout")
REPORTED = ("train", "heldout")  # parts that reported numbers are measured against; choices are made by `validation`
IN_MEMORY = 2**30  # bytes of pixels; more of them lie in a file until they are saved
HASHED = 1000  # images that are hashed at a time


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Section `data`."""

    source: str
    """A row of `deme_core.data.sources.SOURCES`."""
    path: str | None
    """A folder, an archive, parquet file(s), or a pattern of these; `~` is a home. Or the id of a hub data set; null
    for sources that come with a package."""
    size: int
    """Side of the square images, in pixels."""
    held_out: float | None
    """Share of the images that neither base, experts, search nor extractor may see, in [0, 1); null where the source
    has a test split of its own, which is then held out."""
    validation: float = 0.0
    """Share of the held-out images that become the part `validation`, in [0, 1): gate and choices read it, reported
    numbers never do."""
    grey: bool = False
    """Image files become one channel of luminance; else three of RGB. Transparency is dropped, not blended."""
    resize: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    """Filter, antialiased, that brings an image's short side to `size`."""
    crop: Literal["center", "random"] = "center"
    """Which square of a longer image; `random` is drawn once an image, the same in every run."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What a file that is no whole image does: name itself and end the run, or name itself and be left out."""
    column: str = "image"
    """Of the encoded images in a parquet file or hub data set."""
    split: str = "train"
    """Of a hub data set; slices as `train[:1000]` are understood, but by `stream`."""
    revision: str | None = None
    """Of a hub data set: branch, tag or commit."""
    stream: int | None = None
    """Of a hub data set: so many images from the beginning of each split, whose rest is not downloaded; null takes it
    all."""
    captions: str | None = None
    """Column of the captions, of a parquet file or hub data set, or of the metadata.jsonl or metadata.csv beside image
    files (there usually `text`); null reads none. A text-to-image model needs them."""

    def __post_init__(self) -> None:
        share = self.held_out
        check(share is None or 0 <= share < 1, "data.held_out", share, "must be null or lie in [0, 1)")
        check(0 <= self.validation < 1, "data.validation", self.validation, "must lie in [0, 1)")
        check(self.stream is None or self.stream >= 1, "data.stream", self.stream, "must be null or at least 1")
        check(
            self.stream is None or self.source == "hub", "data.stream", self.stream,
            f"only images of the hub are streamed; take null for the source '{self.source}'",
        )  # fmt: skip
        check(
            self.stream is None or "[" not in self.split, "data.split", self.split,
            "a stream takes no slices; name the whole split, from whose beginning it takes data.stream images",
        )  # fmt: skip
        check(self.size >= 1, "data.size", self.size, "must be at least 1 pixel")


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [n, C, H, W]; labels: int64 [n], -1 where the source has none; captions: one or more an image."""

    pixels: torch.Tensor
    labels: torch.Tensor
    captions: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def subset(self, indices: torch.Tensor) -> "Images":
        """The images at `indices`, int64 [k]."""
        captions = None if self.captions is None else tuple(self.captions[k] for k in indices.tolist())
        pixels = new_pixels((len(indices), *self.pixels.shape[1:]))
        return Images(torch.index_select(self.pixels, 0, indices, out=pixels), self.labels[indices], captions)

    @property
    def prompts(self) -> tuple[str, ...]:
        """One caption of each image, in turn the first, the second, …; none where the source has no captions."""
        return tuple(texts[k % len(texts)] for k, texts in enumerate(self.captions or ()))


def new_pixels(shape: tuple[int, ...]) -> torch.Tensor:
    """uint8 of this shape, to be filled; a large one is a map of a nameless file in `.checkpoints`, which goes with it.

    Raises:
        InputError: the disk is too small for it.
    """
    size = math.prod(shape)
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    ROOT.mkdir(exist_ok=True)
    if (free := shutil.disk_usage(ROOT).free) < size:
        raise InputError(
            f"{amount(size, 'B')} of pixels do not fit on the disk of {ROOT}/, where {amount(free, 'B')} are free;"
            " free more, or take a smaller data.size or fewer images"
        )
    with tempfile.NamedTemporaryFile(dir=ROOT, prefix="pixels-") as file:
        file.truncate(size)
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8).reshape(shape)


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] (clamped) -> uint8 in [0, 255], rounded as diffusers' image processor does."""
    return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def pixels_hash(pixels: torch.Tensor) -> str:
    """SHA-256 of the values and the shape."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    for part in pixels.split(HASHED):
        digest.update(as_bytes(part))
    return digest.hexdigest()


def split(images: Images, share: float, name: str) -> tuple[Images, Images]:
    """What is left, and a share of the images; a fixed split, stratified by label, that no seed of a run changes.

    Args:
        name: what a message calls the share.

    Raises:
        InputError: too few images for it.
    """
    if share == 0:
        return images, images.subset(torch.empty(0, dtype=torch.int64))
    from sklearn.model_selection import train_test_split

    stratify = images.labels.numpy() if bool((images.labels >= 0).all()) else None
    try:
        rest, taken = train_test_split(range(len(images)), test_size=share, random_state=0, stratify=stratify)
    except ValueError as error:
        raise InputError(f"params: {name} = {share} of {len(images)} images: {error}") from None
    return images.subset(torch.tensor(sorted(rest))), images.subset(torch.tensor(sorted(taken)))


def save_part(directory: Path, part: str, images: Images) -> None:
    """Write a part as one file of tensors and one of captions, read again by `load_part`."""
    write_tensors(directory / f"{part}.safetensors", {"pixels": images.pixels, "labels": images.labels})
    captions = directory / f"{part}.captions.json"
    captions.unlink(missing_ok=True)  # those of an earlier data set
    if images.captions is not None:
        captions.write_text(json.dumps(images.captions, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load_part(directory: Path, part: str) -> Images:
    """A part that the stage `data` wrote; its pixels are a map of the file, not to be written to."""
    if part not in PARTS:
        raise InputError(f"part '{part}' of a data set is unknown; parts are {', '.join(PARTS)}")
    tensors = map_tensors(directory / f"{part}.safetensors")
    captions = None
    if (file := directory / f"{part}.captions.json").is_file():
        captions = tuple(map(tuple, json.loads(file.read_text(encoding="utf-8"))))
    return Images(tensors["pixels"], tensors["labels"], captions)
