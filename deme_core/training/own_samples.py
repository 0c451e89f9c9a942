"""Direction `self`: finetunes on the pretrained model's own samples, from which a merge leads away.

Alemohammad et al. 2025, "Neon: Negative Extrapolation from Self-Training Improves Image Generation" (arXiv 2510.03597):
θ_s is θ finetuned on samples of θ, and (1 + w)θ − wθ_s is the better model. Here that is the merge θ − wτ with
τ = θ_s − θ. No real image is needed, but to choose w and to measure. With more than one range it is DeMe's experts that
are trained so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from deme_core.data.images import Images, new_pixels, save_part
from deme_core.prompts.settings import of_images
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Job
from deme_core.training.settings import TrainingParams

PARTS = ("train", "validation")


def save_own_parts(
    archives: Iterator[torch.Tensor], whole: int, validation: int, prompts: Sequence[str], first: int, out: Path
) -> None:  # fmt: skip
    """Write own samples as the parts of a data set; the last `validation` of them are the part that no training sees.

    Args:
        archives: uint8 [n, C, H, W] each, `whole` images together.
        prompts: of a text-to-image model; sample k of the seed block has prompt k modulo their number.
        first: the first sample's number in its seed block.
    """
    start = next(archives)
    pixels, filled = new_pixels((whole, *start.shape[1:])), 0
    for archive in chain([start], archives):
        pixels[filled : filled + len(archive)] = archive
        filled += len(archive)
    assert filled == whole, "fewer images than are asked for"
    captions = tuple((text,) for text in of_images(prompts, range(first, first + len(pixels)))) or None
    images = Images(pixels, torch.full((len(pixels),), -1), captions)
    for part, index in zip(PARTS, torch.arange(len(pixels)).split([len(pixels) - validation, validation]), strict=True):
        save_part(out, part, images.subset(index))


def own_jobs(ranges: TimestepRanges, p: float, settings: TrainingParams, seed: int) -> list[Job]:
    """A plain finetune on own samples for each range, as long as one expert's, with Eq. 6's p; one range is Neon."""
    plain, N = replace(settings, consistency=0.0, projection="none"), ranges.N
    return [
        Job(
            label="own samples" if N == 1 else f"own samples, range {i} of {N}", ranges=ranges, i=i, p=p, seed=seed,
            settings=plain, facts={"direction": "self"},
        )
        for i in range(1, N + 1)
    ]  # fmt: skip
