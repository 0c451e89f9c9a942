"""Architectures of the models that the presets name, so that a run's cost is known before anything is fetched.

Numbers alone, as the models' config.json on the hub have them; tests/test_public_models.py holds them to the counts of
parameters that are published of these models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deme_core.checkpoints import build_denoiser, shape_of
from deme_core.components import Autoencoder, Condition
from deme_core.preflight.model import Model

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """The arguments of a pipeline's networks."""

    denoiser: Config
    vae: Config | None = None
    text_encoder: Config | None = None

    def model(self, device: torch.device | None = None) -> Model:
        """The networks with random weights; on the device meta without any."""
        place = device or torch.device("cpu")
        with place:
            denoiser: Any = build_denoiser(self.denoiser)
            vae, condition = self._vae(place), self._condition()
        shape = shape_of(self.denoiser, "denoiser")
        pixels = shape if vae is None else (vae.config.out_channels, *(vae.factor * side for side in shape[1:]))
        return Model(denoiser.eval(), shape, condition, pixels, vae)

    def _vae(self, device: torch.device) -> Autoencoder | None:
        if self.vae is None:
            return None
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return Autoencoder(AutoencoderKL(**self.vae), device)

    def _condition(self) -> Condition:
        if self.text_encoder is None:
            return {}
        size = (self.text_encoder["max_position_embeddings"], self.text_encoder["hidden_size"])
        return {"encoder_hidden_states": torch.zeros(1, *size)}


# Ho et al. 2020 (arXiv 2006.11239), appendix B: attention at 16×16 alone. Names and small numbers as diffusers'
# conversion of their checkpoints has them (google/ddpm-*, config.json).
DDPM: Config = {
    "_class_name": "UNet2DModel", "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "act_fn": "silu",
    "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
    "norm_eps": 1e-6, "norm_num_groups": 32, "time_embedding_type": "positional",
}  # fmt: skip
CIFAR10 = Architecture({
    **DDPM, "sample_size": 32, "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
})  # fmt: skip
LARGE = Architecture({
    **DDPM, "sample_size": 256, "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
})  # fmt: skip
# Rombach et al. 2022 (arXiv 2112.10752): v1-inference.yaml of github.com/CompVis/stable-diffusion, under the names of
# CompVis/stable-diffusion-v1-4 (unet, vae and text_encoder, config.json). The text encoder is that of CLIP ViT-L/14.
STABLE_DIFFUSION_1 = Architecture(
    {
        "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
        "layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
        "attention_head_dim": 8, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5, "downsample_padding": 1,
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    },
    {
        "sample_size": 512, "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
        "block_out_channels": (128, 256, 512, 512), "act_fn": "silu", "norm_num_groups": 32,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    },
)  # fmt: skip
PUBLIC: dict[str, Architecture] = {
    "google/ddpm-cifar10-32": CIFAR10,
    **dict.fromkeys((f"google/ddpm-{name}-256" for name in ("church", "ema-church", "bedroom", "ema-bedroom")), LARGE),
    "CompVis/stable-diffusion-v1-4": STABLE_DIFFUSION_1,
}
