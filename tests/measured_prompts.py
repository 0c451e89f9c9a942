"""Samples with known scores, for the tests of prompt sets."""

from typing import Any

import torch

from deme_core.metrics.extractor import Extractor
from deme_core.prompts.settings import PromptParams, Prompts

PROMPTS = Prompts("mine", ("right", "up", "left"), each=2)


PROTOCOL = {
    "images": 24, "prompts": 3, "seed_block": "EVALUATION", "device": "cpu", "sampler": {"kind": "ddim", "steps": 3},
}  # fmt: skip


MOMENTS = Extractor(
    "moments", "abcdef0123", lambda x: torch.stack([x.float().mean((1, 2, 3)), x.float().amax((1, 2, 3))], 1)
)


def noise(n: int = 24, size: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


def of_set(**changes: Any) -> PromptParams:
    return PromptParams(**{"source": "file", "path": "mine.txt"} | changes)
