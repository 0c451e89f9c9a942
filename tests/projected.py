"""Small U-Nets of every kind of block, and projections as if trained, for the tests of projections."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

DDPM = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_num_groups": 4}
SMALL = {"sample_size": 8, "norm_num_groups": 4, "attention_head_dim": 4, "layers_per_block": 1}
TEXT = {**SMALL, "cross_attention_dim": 12, "in_channels": 3, "out_channels": 3}
# name -> (class, config, sites, sites that fold under `released`)
GEOMETRIES: dict[str, tuple[type, dict[str, Any], int, int]] = {
    "lsun": (
        UNet2DModel,
        {
            **DDPM,
            "sample_size": 32,
            "block_out_channels": (8, 8, 8, 8, 12, 12),
            "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            "attention_head_dim": None,
        },
        13,
        6,
    ),
    "cifar10": (
        UNet2DModel,
        {
            **DDPM,
            "sample_size": 8,
            "block_out_channels": (8, 12, 12, 12),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
        },
        9,
        4,
    ),
    "ends_in_attention": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (8, 12),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
            "downsample_padding": 1,
            "mid_block_scale_factor": 1.4,
            "add_attention": False,
        },
        5,
        1,
    ),
    "resnet_samplers": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (8, 12, 12),
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
        },
        7,
        1,
    ),
    "skip": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (32, 32, 32),
            "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
            "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
            "time_embedding_type": "fourier",
            "mid_block_scale_factor": 2**0.5,
        },
        7,
        3,
    ),
    "text": (
        UNet2DConditionModel,
        {
            **TEXT,
            "block_out_channels": (8, 12),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        5,
        1,
    ),
    "text_simple": (
        UNet2DConditionModel,
        {
            **TEXT,
            "block_out_channels": (8, 12),
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "resnet_time_scale_shift": "scale_shift",
            "resnet_out_scale_factor": 1.3,
        },
        5,
        1,
    ),
    "text_k": (
        UNet2DConditionModel,
        {
            **TEXT,
            "norm_num_groups": None,
            "block_out_channels": (32, 32),
            "time_embedding_dim": 32,
            "attention_head_dim": 32,
            "act_fn": "gelu",
            "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D"),
            "mid_block_type": None,
            "up_block_types": ("KCrossAttnUpBlock2D", "KUpBlock2D"),
        },
        4,
        1,
    ),
}
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
each_placement = pytest.mark.parametrize("placement", ["foldable", "released"])


def build(geometry: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    cls, config, _, _ = GEOMETRIES[geometry]
    return cls(**config).to(dtype).eval()


def run(model: Any) -> Tensor:
    """The noise prediction for a fixed batch of two images."""
    generator = torch.Generator().manual_seed(1)
    size, dtype = model.config.sample_size, next(model.parameters()).dtype
    x = torch.randn(2, 3, size, size, generator=generator).to(dtype)
    inputs = [x, torch.tensor([3, 700])]
    if "cross_attention_dim" in model.config:
        inputs.append(torch.randn(2, 5, model.config.cross_attention_dim, generator=generator).to(dtype))
    return model(*inputs).sample


def matrix(model: Any, name: str) -> nn.Parameter:
    return model.get_submodule(name).weight


@torch.no_grad()
def randomize(model: nn.Module, names: list[str]) -> None:
    """W = I + 0.1·noise, as if trained."""
    for name in names:
        W: Tensor = matrix(model, name)
        W += 0.1 * torch.randn(W.shape, generator=torch.Generator().manual_seed(len(name))).to(W.dtype)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}
