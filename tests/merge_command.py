"""The command of a merge, for its tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from deme_core.checkpoints import WEIGHTS
from deme_core.tensors import read_tensors, write_tensors

Merge = Callable[..., None]


def foreign(expert: Path, folder: Path, **change: torch.Tensor) -> Path:
    """An expert of another writer: no recipe."""
    shutil.copytree(expert, folder)
    write_tensors(folder / WEIGHTS, read_tensors(expert / WEIGHTS) | change)
    return folder
