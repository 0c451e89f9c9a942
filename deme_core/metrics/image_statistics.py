"""Plain statistics of images, channel by channel: what a gain consists of."""

from collections.abc import Iterable

import torch

Statistics = dict[str, list[float]]
"""Name -> one value a channel."""
EDGE = 1 / 255  # of grey; a pixel no further from black or white counts as such


def image_statistics(images: Iterable[torch.Tensor]) -> Statistics:
    """Statistics of a stream of uint8 [n, C, H, W], of pixels in [0, 1].

    Returns:
        mean; deviation: over all pixels of all images; gradient: mean absolute difference of horizontal neighbours;
        black, white: shares of pixels within 1/255 of 0 and of 1.
    """
    sums: dict[str, torch.Tensor] = {}
    pixels = pairs = 0
    for part in images:
        x = part.double() / 255
        own = {
            "mean": x, "square": x.square(), "gradient": x.diff(dim=-1).abs(),
            "black": x <= EDGE, "white": x >= 1 - EDGE,
        }  # fmt: skip
        for name, value in own.items():
            sums[name] = sums.get(name, torch.zeros(x.shape[1])).double() + value.double().sum((0, 2, 3))
        pixels += x[:, 0].numel()
        pairs += own["gradient"][:, 0].numel()
    found = {name: total / (pairs if name == "gradient" else pixels) for name, total in sums.items()}
    found["deviation"] = (found.pop("square") - found["mean"].square()).clamp(min=0).sqrt()
    return {name: found[name].tolist() for name in ("mean", "deviation", "gradient", "black", "white")}
