"""Features of networks trained without labels of ImageNet: CLIP and DINOv2."""

from pathlib import Path
from typing import Any

import torch

from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.json_files import blamed_on, read_json
from deme_core.metrics.extractor import Extractor, files_of_model, rgb
from deme_core.metrics.open_clip_models import load_open_clip
from deme_core.tensors import weights_hash

BLOCK = 50


def load_clip(directory: Path, config: dict[str, Any]) -> Extractor:
    """Image features of CLIP, before their normalisation, with the preprocessing that belongs to the weights.

    Key of the config: `source`, a folder or hub id of open_clip's format (open_clip_config.json holds architecture and
    preprocessing, open_clip_model.safetensors the weights), with `revision`.
    """
    return load_open_clip(config["source"], revision=config.get("revision")).extractor(directory.name)


def load_dinov2(directory: Path, config: dict[str, Any]) -> Extractor:
    """The class token of DINOv2 after its last norm, as Stein et al. 2023 (arXiv 2306.04675) measure with.

    Key of the config: `source`, a folder or hub id of transformers' format (config.json, model.safetensors,
    preprocessor_config.json), with `revision`. Images are resized to the processor's crop (224×224) by antialiased
    bicubic interpolation, and normalised with its mean and standard deviation.
    """
    from transformers import Dinov2Model

    folder = files_of_model(config, ("config.json", "model.safetensors", "preprocessor_config.json"))
    architecture, preprocessing = folder / "config.json", folder / "preprocessor_config.json"
    if (kind := read_json(architecture, {"model_type": str})["model_type"]) != "dinov2":
        raise InputError(f"extractor '{directory}': {architecture} holds a model of type {kind}, not dinov2")
    processor = read_json(preprocessing, {"crop_size": dict, "image_mean": list, "image_std": list})
    with blamed_on(preprocessing, "it names no crop, mean and deviation of three channels"):
        size = (int(processor["crop_size"]["height"]), int(processor["crop_size"]["width"]))
        mean, std = (torch.tensor(processor[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with blamed_on(architecture, "no DINOv2 can be loaded with it"):
        model = Dinov2Model.from_pretrained(folder).eval()
    device = best_device()
    model = model.to(device)

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.interpolate(
            rgb(pixels).float() / 255, size, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        return (x - mean) / std

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=x.to(device)).last_hidden_state[:, 0]

    return Extractor(directory.name, weights_hash(folder / "model.safetensors"), forward, BLOCK, prepare, device)
