"""Feature extractors: images -> feature vectors. A new extractor is one row of the table."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deme_core.data.images import to_model
from deme_core.errors import InputError
from deme_core.tensors import check_same_layout, read_tensors, weights_hash

BLOCK = 500  # images a forward pass


@dataclass(frozen=True, kw_only=True)
class FeatureParams:
    """Section `reference`."""

    extractor: str
    """Folder of a feature extractor, such as zoo/digits-features."""


class SmallClassifier(nn.Module):
    """A convolutional classifier of small images; its pooled last layer gives the features.

    Each of the `blocks` halves the resolution: one for 8×8, two for 16×16.
    """

    def __init__(self, channels: int, width: int, classes: int, blocks: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width // 2, 3, padding=1), nn.GELU()]
        for inputs in [width // 2, *[width] * (blocks - 1)]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1, stride=2), nn.GELU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GELU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C, H, W] in [-1, 1] -> [n, width]."""
        return self.trunk(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C, H, W] in [-1, 1] -> logits [n, classes]."""
        return self.head(self.features(x))


@dataclass(frozen=True)
class Extractor:
    """Images -> features; `name` and `sha256` stand in every protocol."""

    name: str
    sha256: str
    forward: Callable[[torch.Tensor], torch.Tensor]

    @torch.inference_mode()
    def __call__(self, images: Iterable[torch.Tensor]) -> np.ndarray:
        """Features of a stream of uint8 [n, C, H, W]: float32 [total, D].

        The network sees blocks of BLOCK images however the stream is cut, so that the same images give the same
        bits in a search trial and in an evaluation.
        """
        parts = [self.forward(to_model(block)).float() for block in batched(images, BLOCK)]
        if not parts:
            raise InputError(f"extractor {self.name}: no image to extract features from")
        return torch.cat(parts).numpy()


def batched(parts: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The rows of `parts` in tensors of `size` rows, the last one shorter."""
    rest: torch.Tensor | None = None
    for part in parts:
        rest = part if rest is None else torch.cat([rest, part])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        yield rest


def _small_classifier(directory: Path, config: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    model = SmallClassifier(**{key: value for key, value in config.items() if key != "_class_name"}).eval()
    state = read_tensors(directory / "model.safetensors")
    check_same_layout(
        {k: tuple(v.shape) for k, v in state.items()},
        {k: tuple(v.shape) for k, v in model.state_dict().items()},
        str(directory), "its config.json",
    )  # fmt: skip
    model.load_state_dict(state)
    return model.features


EXTRACTORS: dict[str, Callable[[Path, dict], Callable[[torch.Tensor], torch.Tensor]]] = {
    "SmallClassifier": _small_classifier,
}


def load_extractor(source: str) -> Extractor:
    """The extractor in the folder `source` (config.json with `_class_name`, model.safetensors)."""
    directory = Path(source)
    if not (directory / "config.json").is_file():
        raise InputError(
            f"extractor {source!r}: no {directory / 'config.json'}; give a folder such as zoo/digits-features"
        )
    config = json.loads((directory / "config.json").read_text())
    name = config.get("_class_name")
    if name not in EXTRACTORS:
        raise InputError(f"extractor {source!r}: class {name} is unknown; known are {', '.join(EXTRACTORS)}")
    return Extractor(directory.name, weights_hash(directory / "model.safetensors"), EXTRACTORS[name](directory, config))
