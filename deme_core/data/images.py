"""Images of a data set: uint8 tensors with labels and captions, split once into a training and a held-out part."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from deme_core.errors import InputError
from deme_core.params import check
from deme_core.tensors import read_tensors, write_tensors

PARTS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Section `data`."""

    source: str
    """A row of `deme_core.data.sources.SOURCES`."""
    path: str | None
    """A folder, an archive, parquet file(s) (a pattern is fine), or the id of a hub data set; null for sources that
    come with a package."""
    size: int
    """Side of the square images, in pixels."""
    held_out: float | None
    """Share of the images that neither base, experts, search nor extractor may see, in [0, 1); null where the source
    has a test split of its own, which is then held out."""
    grey: bool = False
    """Image files become one channel of luminance; else three of RGB. Transparency is dropped, not blended."""
    resize: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    """Filter, antialiased, that brings an image's short side to `size`."""
    crop: Literal["center", "random"] = "center"
    """Which square of a longer image; `random` is drawn once an image, the same in every run."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What a file that is no whole image does: name itself and end the run, or name itself and be left out."""
    column: str = "image"
    """Of the images in a parquet file or hub data set."""
    split: str = "train"
    """Of a hub data set; slices as `train[:1000]` are understood."""
    revision: str | None = None
    """Of a hub data set: branch, tag or commit."""
    captions: str | None = None
    """Column of the captions, of a parquet file or hub data set, or of the metadata.jsonl or metadata.csv beside image
    files (there usually `text`); null reads none. A text-to-image model needs them."""

    def __post_init__(self) -> None:
        share = self.held_out
        check(share is None or 0 <= share < 1, "data.held_out", share, "must be null or lie in [0, 1)")
        check(self.size >= 1, "data.size", self.size, "must be at least 1 pixel")


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [n, C, H, W]; labels: int64 [n], -1 where the source has none; captions: one or more an image."""

    pixels: torch.Tensor
    labels: torch.Tensor
    captions: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: torch.Tensor) -> "Images":
        """The images at `indices`, int64 [k]."""
        captions = None if self.captions is None else tuple(self.captions[k] for k in indices.tolist())
        return Images(self.pixels[indices], self.labels[indices], captions)

    @property
    def prompts(self) -> tuple[str, ...]:
        """One caption of each image, in turn the first, the second, …; none where the source has no captions."""
        return tuple(own[k % len(own)] for k, own in enumerate(self.captions or ()))


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] (clamped) -> uint8 in [0, 255], rounded as diffusers' image processor does."""
    return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def pixels_hash(pixels: torch.Tensor) -> str:
    """SHA-256 of the values and the shape."""
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()


def split(images: Images, held_out: float) -> dict[str, Images]:
    """The parts `train` and `heldout`; a fixed split, stratified by label, that no seed of a run changes."""
    if held_out == 0:
        none = torch.empty(0, dtype=torch.int64)
        return {"train": images, "heldout": images.subset(none)}
    from sklearn.model_selection import train_test_split

    stratify = images.labels.numpy() if bool((images.labels >= 0).all()) else None
    try:
        train, heldout = train_test_split(range(len(images)), test_size=held_out, random_state=0, stratify=stratify)
    except ValueError as error:
        raise InputError(f"params: data.held_out = {held_out} of {len(images)} images: {error}") from None
    return {
        "train": images.subset(torch.tensor(sorted(train))),
        "heldout": images.subset(torch.tensor(sorted(heldout))),
    }


def save_part(directory: Path, part: str, images: Images) -> None:
    """Write a part as one file of tensors and one of captions, read again by `load_part`."""
    write_tensors(directory / f"{part}.safetensors", {"pixels": images.pixels, "labels": images.labels})
    captions = directory / f"{part}.captions.json"
    captions.unlink(missing_ok=True)  # those of an earlier data set
    if images.captions is not None:
        captions.write_text(json.dumps(images.captions, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load_part(directory: Path, part: str) -> Images:
    """Read a part that the stage `data` wrote."""
    if part not in PARTS:
        raise InputError(f"part '{part}' of a data set is unknown; parts are {', '.join(PARTS)}")
    tensors = read_tensors(directory / f"{part}.safetensors")
    captions = None
    if (file := directory / f"{part}.captions.json").is_file():
        captions = tuple(map(tuple, json.loads(file.read_text(encoding="utf-8"))))
    return Images(tensors["pixels"], tensors["labels"], captions)
