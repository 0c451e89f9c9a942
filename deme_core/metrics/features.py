"""The table of feature extractors: images -> feature vectors. A new extractor is one row."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
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
from deme_core.metrics.networks import NETWORKS
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


def load_network(directory: Path, config: dict[str, Any]) -> Extractor:
    """A small network: its arguments in the config, its weights in model.safetensors."""
    with blamed_on(directory / "config.json", f"no {config['_class_name']} can be built from it"):
        arguments = {key: value for key, value in config.items() if key != "_class_name"}
        model = NETWORKS[config["_class_name"]](**arguments).eval()
    state_dict = read_tensors(directory / "model.safetensors")
    check_same_layout(
        {k: tuple(v.shape) for k, v in state_dict.items()},
        {k: tuple(v.shape) for k, v in model.state_dict().items()},
        str(directory), "its config.json",
    )  # fmt: skip
    model.load_state_dict(state_dict)
    sha256 = weights_hash(directory / "model.safetensors")
    network: Any = model
    wanted = [config["channels"], *[config["size"]] * 2] if "size" in config else [config["channels"]]

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        if list(pixels.shape[1 : 1 + len(wanted)]) != wanted:
            raise InputError(
                f"extractor '{directory}' is for images of {' × '.join(map(str, wanted))}"
                f" (channels, height, width), and these have {' × '.join(map(str, pixels.shape[1:]))}; name one that"
                " was trained on such images"
            )
        return network.features(to_model(pixels))

    return Extractor(directory.name, sha256, forward)


def load_pixels(directory: Path, config: dict[str, Any]) -> Extractor:
    """The pixels themselves in [0, 1], means of squares that leave `side` × `side` of them a channel.

    No network has chosen what they show. A Fréchet distance of them sees means and covariances of pixels, no shapes.
    """
    side = config["side"]

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels.float() / 255, side).flatten(1)

    return Extractor(directory.name, hashlib.sha256(f"pixels {side}".encode()).hexdigest(), forward)


@dataclass(frozen=True)
class Kind:
    """A row of EXTRACTORS."""

    load: Callable[[Path, dict[str, Any]], Extractor]
    """(folder, config.json) -> the extractor."""
    keys: Kinds
    """Of its config.json."""
    features: Callable[[dict[str, Any]], int | None]
    """config.json -> D, as far as files on this machine say it."""
    weights: tuple[str, str] | None = None
    """For `make check`: their file, and how to get it, with {folder} and the keys of the config in braces. None: there
    are none, or they are those of the published model that the key `source` names."""
    packages: tuple[tuple[str, str], ...] = ()
    """Optional packages, and the modules that they bring."""


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


def _small(network: type[nn.Module]) -> Kind:
    """The row of a small network: the arguments without a default are keys of its config.json."""
    arguments = signature(network).parameters.values()
    keys: Kinds = {one.name: int for one in arguments if one.default is one.empty}
    weights = "{folder}/model.safetensors", "python zoo/train_features.py {folder}"
    return Kind(load_network, keys, lambda config: config["width"], weights)


PUBLISHED: Kinds = {"source": str, "revision": str | None}
INCEPTION = (
    "{weights}",
    "put it there, or python -c \"from deme_core.metrics.features import load_extractor as f; f('{folder}')\"",
)
EXTRACTORS = {
    **{name: _small(network) for name, network in NETWORKS.items()},
    "Pixels": Kind(load_pixels, {"side": int}, lambda config: None),
    "Inception": Kind(
        load_inception, {"resize": str, "weights": str}, lambda config: 2048, INCEPTION, (("clean-fid", "cleanfid"),)
    ),
    "CLIP": Kind(
        load_clip, PUBLISHED, _published(CONFIG, "model_cfg", "embed_dim"),
        packages=(("open_clip_torch", "open_clip"), ("torchvision", "torchvision")),
    ),
    "DINOv2": Kind(load_dinov2, PUBLISHED, _published("config.json", "hidden_size")),
}  # fmt: skip


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
