"""A few examples of a large set, the same ones for every model."""

import hashlib

import torch

from deme_core.components import Condition
from deme_core.data.examples import ALL, Examples
from deme_core.seeds import step_seed


class SomeExamples:
    """`count` examples drawn at random without replacement; all of a set that has no more."""

    def __init__(self, examples: Examples, count: int) -> None:
        generator = torch.Generator().manual_seed(step_seed("some examples"))
        self.examples = examples
        self.chosen = torch.randperm(len(examples), generator=generator)[:count]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.examples.shape

    @property
    def sha256(self) -> str:
        """Of the set, and of which are chosen."""
        return hashlib.sha256(f"{self.examples.sha256} {self.chosen.tolist()}".encode()).hexdigest()

    def draw(
        self, index: torch.Tensor, generator: torch.Generator, *, rows: slice = ALL, flip: bool = False,
        caption_dropout: float = 0.0,
    ) -> tuple[torch.Tensor, Condition]:  # fmt: skip
        """As `Examples.draw`."""
        return self.examples.draw(self.chosen[index], generator, rows=rows, flip=flip, caption_dropout=caption_dropout)
