"""Plain statistics of images, channel by channel: what a gain consists of."""

import math
from collections.abc import Iterable

import torch

Statistics = dict[str, list[float]]
"""Name -> one value a channel."""
WHITE = 255
EDGE = 1  # of 255 greys; a pixel no further from black or white counts as such


def image_statistics(images: Iterable[torch.Tensor]) -> Statistics:
    """Statistics of a stream of uint8 [n, C, H, W], of pixels in [0, 1].

    Sums are those of whole numbers, so that no value depends on batches or threads.

    Returns:
        mean; deviation: over all pixels of all images; gradient: mean absolute difference of horizontal neighbours;
        black, white: shares of pixels within 1/255 of 0 and of 1.
    """
    sums: dict[str, torch.Tensor] = {}
    pixels = pairs = 0
    for part in images:
        x = part.int()
        values = {
            "mean": x, "square": x.square(), "gradient": x.diff(dim=-1).abs(), "black": x <= EDGE,
            "white": x >= WHITE - EDGE,
        }  # fmt: skip
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.sum((0, 2, 3), dtype=torch.int64)
        pixels += x[:, 0].numel()
        pairs += values["gradient"][:, 0].numel()
    total = {name: value.tolist() for name, value in sums.items()}
    variance = [
        (pixels * square - mean**2) / pixels**2 for mean, square in zip(total["mean"], total["square"], strict=True)
    ]
    return {
        "mean": [value / (WHITE * pixels) for value in total["mean"]],
        "deviation": [math.sqrt(value) / WHITE for value in variance],
        "gradient": [value / (WHITE * pairs) for value in total["gradient"]],
        "black": [value / pixels for value in total["black"]],
        "white": [value / pixels for value in total["white"]],
    }
