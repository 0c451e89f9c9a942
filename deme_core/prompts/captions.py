"""Captions of images that nothing was trained on: the held-out part of the run's own data."""

from pathlib import Path

from deme_core.data.images import load_part
from deme_core.errors import InputError


def read_heldout(path: Path) -> list[str]:
    """One caption of each held-out image in the folder that the stage `data` wrote."""
    if not (path / "heldout.safetensors").is_file():
        raise InputError(f"{path}: no held-out images; give the output of the stage data: data/images")
    prompts = load_part(path, "heldout").prompts
    if not prompts:
        raise InputError(f"{path}: its held-out images have no captions; choose a data set that has: data.source")
    return list(prompts)
