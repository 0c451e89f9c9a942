"""The base's images with each channel's mean and standard deviation set to the data's: what two numbers give."""

import json
from pathlib import Path

import torch

from deme_core.data.archive import PER_ARCHIVE, PROTOCOL, read_images, read_protocol, write_archive, write_grid
from deme_core.errors import InputError
from deme_core.metrics.image_statistics import image_statistics


def match_images(samples: Path, real: torch.Tensor, out: Path) -> None:
    """Write the images of `samples` to `out`, each channel by x -> a·x + b so that mean and deviation are the data's.

    Rounding to 8 bits and the ends of grey leave a small rest.

    Args:
        real: uint8 [m, C, H, W] of the training part.

    Raises:
        InputError: a channel of the samples has one value alone.
    """
    protocol = read_protocol(samples)
    ours, theirs = image_statistics(read_images(samples, protocol["images"])), image_statistics(real.split(PER_ARCHIVE))
    if min(ours["deviation"]) == 0:
        raise InputError(f"{samples}: a channel has one value in all images, and no deviation to match")
    scale = [there / here for here, there in zip(ours["deviation"], theirs["deviation"], strict=True)]
    shift = [there - a * here for a, here, there in zip(scale, ours["mean"], theirs["mean"], strict=True)]
    a, b = (torch.tensor(values).view(1, -1, 1, 1) for values in (scale, shift))
    out.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(read_images(samples, protocol["images"])):
        matched = ((pixels.double() / 255 * a + b).clamp(0, 1) * 255).round().to(torch.uint8)
        write_archive(out, number, matched)
        if number == 0:
            write_grid(out / "preview.png", matched[:100], columns=20, scale=max(1, 48 // matched.shape[-1]))
    text = json.dumps(protocol | {"matched_scale": scale, "matched_shift": shift}, indent=2, sort_keys=True)
    (out / PROTOCOL).write_text(text + "\n", encoding="utf-8")
