"""A tiny StableDiffusionPipeline of random weights, as v1.4 lies on the hub, and the params of a short run with it."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel

from deme_core.data.images import Images, save_part

TOKENS, SIZE = 12, 16
UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.2.2",
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "data": {"source": "digits_t2i", "size": SIZE, "held_out": 0.02},
    "finetune_range": {"iterations": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 4, "caption_dropout": 0.5},
    "merge_search": {
        "method": "grid", "objective": "loss", "budget": 100, "images": 20, "values": [0.0, 0.5], "finalists": 1,
        "final_images": 40, "final_blocks": 2,
    },
    "sampler": {"kind": "pndm", "steps": 2, "block": 4, "guidance": 3.0},
    "sample": {"images": 6, "prompts": "captions"},
    "evaluate": {"blocks": 2},
    "loss_matrix": {"draws": 1},
    "prompts": {
        "captions": {"source": "heldout", "path": "data/images"},
        "two": {"source": "heldout", "path": "data/images", "count": 2, "each": 3, "template": "{} again"},
    },
}  # fmt: skip


def write_tokenizer(directory: Path) -> None:
    """A CLIPTokenizer whose tokens are letters and digits."""
    directory.mkdir(parents=True)
    letters = string.ascii_lowercase + string.digits
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>"}
    files = {
        "vocab.json": {token: k for k, token in enumerate(tokens)},
        "special_tokens_map.json": special,
        "tokenizer_config.json": special | {"model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    (directory / "merges.txt").write_text("#version: 0.2\n")


def write_stable_diffusion(directory: Path, *, seed: int = 0, **schedule: Any) -> Path:
    """A complete pipeline; `schedule`: arguments of PNDMScheduler."""
    torch.manual_seed(seed)
    write_tokenizer(directory / "tokenizer")
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(
        CLIPTextConfig(**size, vocab_size=74, max_position_embeddings=TOKENS, bos_token_id=72, eos_token_id=73)
    ).save_pretrained(directory / "text_encoder")
    AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(4, 4), norm_num_groups=2,
        sample_size=SIZE, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(directory / "vae")  # fmt: skip
    UNet2DConditionModel(**UNET).save_pretrained(directory / "unet")
    PNDMScheduler(**SCHEDULE | schedule).save_pretrained(directory / "scheduler")
    vision = size | {"image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=size, projection_dim=8))
    checker.save_pretrained(directory / "safety_checker")
    (directory / "feature_extractor").mkdir()
    (directory / "feature_extractor" / "preprocessor_config.json").write_text('{"crop_size": 8, "size": 8}\n')
    (directory / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    (directory / "README.md").write_text("A model card.\n")
    # The hub's copy holds the same weights pickled, too.
    for name, weights in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        (directory / name / f"{weights}.bin").write_bytes(b"pickle")
    for name in ("text_encoder", "safety_checker"):
        (directory / name / "pytorch_model.bin").write_bytes(b"pickle")
    return directory


def captioned(n: int = 12, size: int = SIZE) -> Images:
    """Random grey images, every third with two captions."""
    pixels = torch.randint(0, 256, (n, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    captions = tuple((f"digit {k % 4}", "second")[: 1 + (k % 3 == 0)] for k in range(n))
    return Images(pixels, torch.arange(n) % 2, captions)


def write_data(directory: Path, images: Images | None = None) -> Path:
    """What the stage data writes."""
    images = images or captioned()
    save_part(directory, "train", images.subset(torch.arange(0, len(images) - 4)))
    save_part(directory, "validation", images.subset(torch.arange(0)))
    save_part(directory, "heldout", images.subset(torch.arange(len(images) - 4, len(images))))
    return directory


def write_image(path: Path) -> None:
    """A small grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
