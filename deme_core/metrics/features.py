"""The table of feature extractors: images -> feature vectors. A new extractor is one row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deme_core.data.images import to_model
from deme_core.errors import InputError
from deme_core.json_files import Kinds, blamed_on, check_kinds, read_json
from deme_core.metrics.embeddings import load_clip, load_dinov2
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.inception import load_inception
from deme_core.metrics.open_clip_models import CONFIG
from deme_core.tensors import check_same_layout, read_tensors, weights_hash


@dataclass(frozen=True, kw_only=True)
class FeatureParams:
    """Section `reference`."""

    extractor: str
    """Folder of a feature extractor, such as zoo/digits-features."""
    statistics: str | None = None
    """An npz file of `mu` [D] and `sigma` [D, D], as clean-fid, pytorch-fid and authors publish them: one more
    reference beside the data set's own."""


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


def load_classifier(directory: Path, config: dict[str, Any]) -> Extractor:
    """A SmallClassifier: its arguments in the config, its weights in model.safetensors."""
    with blamed_on(directory / "config.json", "no classifier can be built from it"):
        model = SmallClassifier(**{key: value for key, value in config.items() if key != "_class_name"}).eval()
    state = read_tensors(directory / "model.safetensors")
    check_same_layout(
        {k: tuple(v.shape) for k, v in state.items()},
        {k: tuple(v.shape) for k, v in model.state_dict().items()},
        str(directory), "its config.json",
    )  # fmt: skip
    model.load_state_dict(state)
    sha256 = weights_hash(directory / "model.safetensors")
    return Extractor(directory.name, sha256, lambda pixels: model.features(to_model(pixels)))


@dataclass(frozen=True)
class Kind:
    """A row of EXTRACTORS."""

    load: Callable[[Path, dict[str, Any]], Extractor]
    """(folder, config.json) -> the extractor."""
    keys: Kinds
    """Of its config.json."""
    features: Callable[[dict[str, Any]], int | None]
    """config.json -> D, as far as files on this machine say it."""


def _published(file: str, *keys: str) -> Callable[[dict[str, Any]], int | None]:
    """D of a published model: what stands under the keys in its `file`; None where that is not on this machine."""

    def features(config: dict[str, Any]) -> int | None:
        found: Any = Path(config["source"], file)
        if not Path(config["source"]).is_dir():
            from huggingface_hub import try_to_load_from_cache

            try:
                found = try_to_load_from_cache(config["source"], file, revision=config.get("revision"))
            except ValueError:  # no hub id
                return None
        if not isinstance(found, str | Path) or not Path(found).is_file():
            return None
        found = read_json(Path(found))
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int) else None

    return features


PUBLISHED: Kinds = {"source": str, "revision": str | None}
EXTRACTORS = {
    "SmallClassifier": Kind(
        load_classifier, {"channels": int, "width": int, "classes": int}, lambda config: config["width"]
    ),
    "Inception": Kind(load_inception, {"resize": str, "weights": str}, lambda config: 2048),
    "CLIP": Kind(load_clip, PUBLISHED, _published(CONFIG, "model_cfg", "embed_dim")),
    "DINOv2": Kind(load_dinov2, PUBLISHED, _published("config.json", "hidden_size")),
}


def load_extractor(source: str) -> Extractor:
    """The extractor in the folder `source`: its config.json says with `_class_name` which row of the table reads it.

    Raises:
        InputError: no such folder, an unknown class, a missing key, file or package, or weights of another network.
    """
    directory = Path(source)
    config = read_config(directory)
    return EXTRACTORS[config["_class_name"]].load(directory, config)


def feature_count(source: str) -> int | None:
    """D of the extractor in the folder `source`; None where no file on this machine says it.

    Raises:
        InputError: its config.json is broken.
    """
    if not (Path(source) / "config.json").is_file():
        return None
    config = read_config(Path(source))
    return EXTRACTORS[config["_class_name"]].features(config)


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of an extractor's folder."""
    if not (directory / "config.json").is_file():
        raise InputError(
            f"extractor '{directory}': no {directory / 'config.json'}; give a folder such as zoo/digits-features"
        )
    config = read_json(file := directory / "config.json", {"_class_name": str})
    if (name := config["_class_name"]) not in EXTRACTORS:
        raise InputError(f"extractor '{file}': class {name} is unknown; known are {', '.join(EXTRACTORS)}")
    check_kinds(config, EXTRACTORS[name].keys, file)
    return config
