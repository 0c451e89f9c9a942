"""Task vectors with a known merge, for the tests of merging."""

from pathlib import Path

import torch

from deme_core.checkpoints import WEIGHTS
from deme_core.merging.merge import write_merged
from deme_core.tensors import read_tensors


def merged_tensors(pipeline: Path, vectors: list[Path], weights: list[float], out: Path) -> dict[str, torch.Tensor]:
    write_merged(pipeline, vectors, weights, out, {})
    return read_tensors(out / "unet" / WEIGHTS)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
