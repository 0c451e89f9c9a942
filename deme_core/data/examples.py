"""What a denoiser is trained on: x_0 in its own space, and the condition that goes with it.

`Pixels` are images as they are; `Latents` come from the frozen parts of a text-to-image pipeline, which ran once (see
deme_core.data.encode). Training, search and tables know neither: they draw (x_0, condition), and call the denoiser
with `model(x_t, t, **condition)`.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from deme_core.components import Condition
from deme_core.data.images import pixels_hash, to_model
from deme_core.errors import InputError
from deme_core.tensor_files import as_bytes
from deme_core.tensors import hash_line, map_tensors

ALL = slice(None)
LARGEST, ELEMENTS = 500, 2**20  # of a batch: examples, and elements of x_0


class Examples(Protocol):
    """A set of (x_0, condition), from which batches are drawn."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x_0: (C, H, W)."""

    @property
    def sha256(self) -> str:
        """Of everything that is drawn from."""

    def draw(
        self, index: torch.Tensor, generator: torch.Generator, *, rows: slice = ALL, flip: bool = False,
        caption_dropout: float = 0.0,
    ) -> tuple[torch.Tensor, Condition]:  # fmt: skip
        """x_0, float32 [k, C, H, W], and the condition of `rows` of the examples `index`, on the CPU.

        Args:
            index: int64 [n].
            generator: of everything that is random about an example. It draws for all n, so that a row is the same
                whichever others are taken with it.
            rows: what is read and returned, k of the n.
            flip: mirror each x_0 with probability 1/2.
            caption_dropout: probability of the empty caption in an example's place.
        """


class Pixels:
    """Images in [-1, 1], without a condition."""

    def __init__(self, pixels: torch.Tensor) -> None:
        """`pixels` is uint8 [n, C, H, W]."""
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])

    @property
    def sha256(self) -> str:
        """Of the pixels."""
        return pixels_hash(self.pixels)

    def draw(
        self, index: torch.Tensor, generator: torch.Generator, *, rows: slice = ALL, flip: bool = False,
        caption_dropout: float = 0.0,
    ) -> tuple[torch.Tensor, Condition]:  # fmt: skip
        """As `Examples.draw`; there is no caption to drop."""
        x0 = to_model(self.pixels[index[rows]])
        if flip:
            mirrored = (torch.rand(len(index), generator=generator) < 0.5)[rows]
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        return x0, {}


class Latents:
    """Latents of images, drawn from N(mean, std²), with the embeddings of their captions.

    The tensors, whose floats may be of half precision: mean, std [n, c, h, w]; where
    flips were encoded mean_flipped, std_flipped; embeddings [m, L, D], the first of which is the empty caption's;
    captions, int64 [·], the rows of `embeddings` image by image; first, int64 [n + 1], where each image's begin.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["mean"])

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w)."""
        return tuple(self.tensors["mean"].shape[1:])

    @property
    def sha256(self) -> str:
        """Of all tensors."""
        digest = hashlib.sha256()
        for key, value in sorted(self.tensors.items()):
            digest.update(hash_line(key, value.dtype, tuple(value.shape)))
            digest.update(as_bytes(value))
        return digest.hexdigest()

    def draw(
        self, index: torch.Tensor, generator: torch.Generator, *, rows: slice = ALL, flip: bool = False,
        caption_dropout: float = 0.0,
    ) -> tuple[torch.Tensor, Condition]:  # fmt: skip
        """As `Examples.draw`; a caption of several is drawn, too.

        Raises:
            InputError: flips are asked for, and were not encoded.
        """
        if flip and "mean_flipped" not in self.tensors:
            raise InputError(
                "params: finetune_range.horizontal_flip = True: the latents were encoded without flips, and a flipped"
                " latent is not the latent of the flipped image; set encode.flips=true"
            )
        n, index = len(index), index[rows]

        def uniform() -> torch.Tensor:
            return torch.rand(n, generator=generator)[rows]

        mean, std = self._at("mean", index), self._at("std", index)
        if flip:
            mirrored = (uniform() < 0.5)[:, None, None, None]
            mean = torch.where(mirrored, self._at("mean_flipped", index), mean)
            std = torch.where(mirrored, self._at("std_flipped", index), std)
        x0 = mean + std * torch.randn(n, *self.shape, generator=generator)[rows]
        first = self.tensors["first"]
        count = first[index + 1] - first[index]
        which = first[index] + (uniform() * count).long().clamp(max=count - 1)
        row = torch.where(uniform() < caption_dropout, 0, self.tensors["captions"][which])
        return x0, {"encoder_hidden_states": self._at("embeddings", row)}

    def _at(self, key: str, index: torch.Tensor) -> torch.Tensor:
        return self.tensors[key][index].float()


def batches(count: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """`count` examples of a shape in batches that a network takes without a gradient; the same on any machine."""
    size = min(LARGEST, max(1, ELEMENTS // math.prod(shape)))
    yield from (slice(start, min(start + size, count)) for start in range(0, count, size))


def load_examples(directory: Path, part: str) -> Examples:
    """A part that the stage `encode` wrote, as a map of its file: a large set is read batch by batch."""
    tensors = map_tensors(directory / f"{part}.safetensors")
    return Pixels(tensors["pixels"]) if "pixels" in tensors else Latents(tensors)
