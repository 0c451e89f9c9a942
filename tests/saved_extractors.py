"""Small networks saved in the formats of the large extractors, for the tests of what reads them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deme_core.metrics.inception import FILE


class Layers(nn.Module):
    """Any network from 3 channels to 2,048 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 16)


class Stub(nn.Module):
    """The interface of the TorchScript Inception: `layers`, and `return_features` with its own resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = self.layers((x - 128) / 128)
        return x if return_features else x.mean((1, 2, 3))


def write_stub(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> Path:
    """A stub in the place of the published Inception."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.jit.script(Stub()).save(str(folder / FILE))
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    monkeypatch.setattr("deme_core.metrics.inception.PUBLISHED", digest)
    return folder / FILE


def write_config(folder: Path, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def inception(folder: Path, resize: str = "clean", **changes: Any) -> str:
    config = {"_class_name": "Inception", "resize": resize, "weights": str(folder / FILE)} | changes
    return write_config(folder / resize, **config)


def pictures(n: int = 5, channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def write_dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    processor = {
        "crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_clip(folder: Path, mean: float) -> Path:
    open_clip = pytest.importorskip(
        "open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception
    )
    from safetensors.torch import save_file

    model_config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocessing = {"mean": [mean] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": model_config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
