"""The resume state of a training: one file, replaced whole.

It is safetensors, not accelerate's pickles, and holds no generator state: every draw is a function of the step
(see deme_core.seeds).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from deme_core.tensors import read_recipe, read_tensors, write_tensors

STATE = "state.safetensors"


def save_state(
    directory: Path,
    model: nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
) -> None:
    """Write model, EMA and optimizer tensors with `progress` (step, curve) as one atomic file."""
    names = [name for name, _ in model.named_parameters()]
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in zip(names, ema.shadow_params, strict=True)}
    for name, parameter in model.named_parameters():
        optimizer_state = optimizer.state[parameter]
        tensors |= {f"optimizer.{name}.{key}": torch.as_tensor(value) for key, value in optimizer_state.items()}
    write_tensors(directory / STATE, tensors, progress)


def load_state(
    directory: Path, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put a saved state back in place and return its `progress`; None where there is none.

    Args:
        optimizer: the plain one, once everything else has placed it: its step counters stay on the CPU, where a step
            reads them without waiting for a GPU.
    """
    file = directory / STATE
    if not file.is_file():
        return None
    tensors = read_tensors(file)
    device = next(model.parameters()).device
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    progress = read_recipe(file)
    ema.shadow_params = [tensors[f"ema.{name}"].to(device) for name, _ in model.named_parameters()]
    ema.optimization_step = progress["step"]
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        optimizer_state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        optimizer.state[parameter] = {k: _step(v) if k == "step" else v.to(device) for k, v in optimizer_state.items()}
    return progress


def _step(saved: torch.Tensor) -> torch.Tensor | int:
    """The step counter as its optimizer keeps it: AdamW a float on the CPU, the one of 8 bits an int."""
    return saved if saved.is_floating_point() else int(saved)
