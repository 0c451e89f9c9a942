"""Models as hubs lay them out, and a hub's cache without the hub, for the tests of what reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from deme_core.checkpoints import (
    WEIGHTS,
)
from deme_core.hub_layouts import ATTENTION, PICKLED

# The blocks of google/ddpm-cifar10-32 and google/ddpm-ema-church-256, with 8 and 16 channels in place of 128 to 512.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "cifar10": {
        "sample_size": 32,
        "block_out_channels": [8, 16, 16, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "lsun": {
        "sample_size": 64,
        "block_out_channels": [8, 8, 16, 16, 16, 16],
        "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
    },
}


OLD_CONFIG = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-6, "norm_num_groups": 4, "out_channels": 3,
    "time_embedding_type": "positional",
}  # fmt: skip


OLD_SCHEDULER = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
    "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
    "variance_type": "fixed_small",
}  # fmt: skip


INDEX = {
    "_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}  # fmt: skip


def old_key(key: str) -> str:
    for old, new in ATTENTION.items():
        key = key.replace(f".{new}.", f".{old}.") if ".attentions." in key else key
    return key


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_flat(
    folder: Path, geometry: str, *, pickled: bool = True, index: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A flat repository of old keys, as google/ddpm-*; returns its weights under the current keys."""
    config = OLD_CONFIG | GEOMETRIES[geometry]
    write_json(folder / "config.json", config)
    write_json(folder / "scheduler_config.json", OLD_SCHEDULER)
    if index:
        write_json(folder / "model_index.json", INDEX)
    torch.manual_seed(seed)
    state_dict = UNet2DModel.from_config(config).state_dict()
    old = {old_key(key): value for key, value in state_dict.items()}
    assert old.keys() != state_dict.keys()
    if pickled:
        torch.save(old, folder / PICKLED)
    else:
        save_file(old, folder / WEIGHTS, metadata={"format": "pt"})
    return state_dict


def offline_hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The hub's cache: id -> snapshot; anything that reaches for the network fails."""
    cache: dict[str, Path] = {}

    def snapshot_download(name: str, *, local_files_only: bool, **_: Any) -> str:
        assert local_files_only
        if name not in cache:
            raise LocalEntryNotFoundError(name)
        return str(cache[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return cache


def hub_of(monkeypatch: pytest.MonkeyPatch, snapshot: Path, files: dict[str, str]) -> Callable[[str], None]:
    """A hub with one repository, owner/name at abc, of these files; it is asked by the patterns that it knows itself.

    Returns:
        Puts a file into the cache that no call has asked for.
    """

    def cache(name: str) -> None:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(files[name])

    def snapshot_download(name: str, *, allow_patterns: list[str], revision: str, ignore_patterns: list[str]) -> str:
        assert (name, revision) == ("owner/name", "abc")
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            cache(file)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return cache
