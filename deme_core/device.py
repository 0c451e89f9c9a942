"""Where networks run."""

import torch

from deme_core.processes import state


def best_device() -> torch.device:
    """CUDA where there is one, under `accelerate launch` the GPU of this process; else the CPU."""
    return state().device
