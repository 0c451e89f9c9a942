"""Where networks run, and what their numbers are worth there."""

import os
from functools import cache

import torch

from deme_core.processes import partial_state


def best_device() -> torch.device:
    """CUDA where there is one, under `accelerate launch` the GPU of this process; else the CPU."""
    device = partial_state().device
    if device.type == "cuda":
        _exact()
    return device


@cache
def _exact() -> None:
    """On a GPU, too, float32 is float32, and the same input gives the same bytes.

    PyTorch warns of the operations of a network for which it has no deterministic kernel.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # else the kernel is the one that was fastest this time
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It costs a write of every new tensor, and none here is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device_name(device: torch.device) -> str:
    """For protocols: numbers of different devices differ in their last bits."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
