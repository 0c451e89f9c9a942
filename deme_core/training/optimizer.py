"""AdamW, with its moments in 32 bits or in 8."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from deme_core.errors import InputError
from deme_core.naming import said
from deme_core.training.settings import TrainingParams


def adamw(parameters: Iterable[torch.nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """PyTorch's, one kernel for many tensors."""
    return torch.optim.AdamW(parameters, foreach=True, **settings)


def adamw_8bit(parameters: Iterable[torch.nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """Moments in blocks of 256 with a scale each (Dettmers et al. 2021, arXiv 2110.02861): 2 bytes a weight, not 8.

    Raises:
        InputError: bitsandbytes is not there, or does not load.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception as error:  # it loads compiled libraries, which fail in many ways
        raise InputError(
            f"params: finetune_range.optimizer = 'adamw_8bit' needs the package bitsandbytes ({said(error)}): pip"
            " install 'deme[gpu]', or take adamw"
        ) from None
    return AdamW8bit(parameters, **settings)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "adamw_8bit": adamw_8bit}


def make_optimizer(parameters: Iterable[torch.nn.Parameter], params: TrainingParams) -> torch.optim.Optimizer:
    """The optimizer that `params` names."""
    return OPTIMIZERS[params.optimizer](
        parameters, lr=params.rate, betas=(params.adam_beta1, params.adam_beta2), eps=params.adam_epsilon,
        weight_decay=params.weight_decay,
    )  # fmt: skip
