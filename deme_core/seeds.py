"""Where randomness comes from: one seed an image, in blocks that never meet, and one seed a training step."""

import hashlib
from collections.abc import Iterable
from enum import IntEnum

import torch

from deme_core.errors import InputError

INDEX_BITS = 28  # the CPU generator of torch reads the low 32 bits of a seed: 4 bits of block, 28 of image index


class SeedBlock(IntEnum):
    """Who may look at which images. A number that is reported never comes from a block the search has seen; OWN are the
    samples that a model is trained on itself."""

    SEARCH = 1
    CONFIRM = 2
    EVALUATION = 3
    BASE = 4
    OWN = 5


def image_seed(block: SeedBlock, index: int) -> int:
    """The seed of image `index` of a block; different for every (block, index)."""
    if not 0 <= index < 1 << INDEX_BITS:
        raise InputError(f"image index {index} is outside [0, 2**{INDEX_BITS}): ask for fewer images")
    return (int(block) << INDEX_BITS) + index


def image_generators(block: SeedBlock, indices: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator an image, so that image k is the same on any device and in any batch."""
    return [torch.Generator().manual_seed(image_seed(block, k)) for k in indices]


def step_seed(*parts: int | str) -> int:
    """A 63-bit seed for one step of training, from whatever names it: (seed, range, step, rank).

    Every draw of a step (timesteps, noise, augmentation, dropout) comes from it, and none from a stream that runs
    through the whole training: a resumed run needs no generator state to draw the very same numbers.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
