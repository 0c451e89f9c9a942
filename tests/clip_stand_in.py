"""A CLIP model whose scores are known, for the tests of what it measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deme_core.metrics.extractor import Extractor

ANGLES = {"right": 0.0, "up": 90.0, "left": 180.0}


@dataclass
class Compass:
    """A stand-in for a model: texts are directions, an image is the direction of its first pixel, in half degrees."""

    asked: list[Sequence[str]]
    folder: Path = Path("compass")

    def extractor(self, name: str) -> Extractor:
        return Extractor(name, "0123456789", lambda pixels: 3 * direction(pixels[:, 0, 0, 0] * 2.0), 2)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked.append(texts)
        return 5 * direction(torch.tensor([ANGLES[text] for text in texts]))


def direction(degrees: torch.Tensor) -> torch.Tensor:
    return torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)


def images(*degrees: int) -> torch.Tensor:
    return torch.tensor(degrees, dtype=torch.uint8)[:, None, None, None] // 2


class Lengths(Compass):
    """A stand-in for a CLIP model: a text's direction is its length."""

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        return direction(torch.tensor([len(text) for text in texts]))
