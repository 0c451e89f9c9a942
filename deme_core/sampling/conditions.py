"""The condition of every image, by its index, and classifier-free guidance."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch

from deme_core.components import Condition, TextEncoder, is_text_to_image
from deme_core.denoising import Denoise
from deme_core.errors import InputError
from deme_core.params import check
from deme_core.prompts.settings import of_images


class Conditions:
    """Image k has the prompt k modulo their number; no prompts ask for no condition."""

    def __init__(self, prompts: Sequence[str], encode: Callable[[Sequence[str]], torch.Tensor]) -> None:
        """`encode` turns n texts into embeddings [n, L, D] on the device of the denoiser."""
        self.prompts, self.encode = tuple(prompts), encode

    @classmethod
    def of_prompts(cls, pipeline: Path, prompts: Sequence[str], device: torch.device) -> "Conditions":
        """Prompts as the text encoder of a pipeline reads them; those that are too long for it are said and counted."""
        if not prompts:
            raise InputError(f"{pipeline}: a text-to-image pipeline is sampled with prompts, and there are none")
        encoder = TextEncoder(pipeline, device)
        encoder.say_too_long(prompts)
        return cls(prompts, encoder)

    @property
    def sha256(self) -> str | None:
        """Of the prompts in their order; None without any."""
        return hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest() if self.prompts else None

    def texts(self, indices: Iterable[int]) -> list[str]:
        """The prompts of these images; none where there are no prompts."""
        return of_images(self.prompts, indices)

    def of(self, indices: Iterable[int]) -> Condition:
        """The condition of these images."""
        return self._encoded(self.texts(indices))

    def blank(self, n: int) -> Condition:
        """The condition of n images with the empty prompt."""
        return {key: value.expand(n, *value.shape[1:]) for key, value in self._empty.items()}

    @cached_property
    def _empty(self) -> Condition:
        return self._encoded([""] if self.prompts else [])

    def _encoded(self, texts: list[str]) -> Condition:
        return {"encoder_hidden_states": self.encode(texts)} if texts else {}


UNCONDITIONAL = Conditions((), lambda texts: torch.empty(len(texts), 0, 0))


def check_prompts(prompts: str | None, sets: Iterable[str], guidance: float, pipeline: Path | None) -> None:
    """Refuse `sample.prompts` that are no set of `prompts`, or do not belong to the pipeline, where that is known."""
    names = ", ".join(sets) or "none"
    check(prompts is None or prompts in sets, "sample.prompts", prompts, f"the sets of `prompts` are {names}")
    if pipeline is not None and is_text_to_image(pipeline):
        check(prompts is not None, "sample.prompts", prompts, f"{pipeline} is sampled with prompts; sets are {names}")
    elif pipeline is not None:
        refuse_text(pipeline, [prompts] if prompts else [], guidance)


def refuse_text(pipeline: Path, prompts: Sequence[str], guidance: float) -> None:
    """Refuse prompts and guidance for a pipeline without a text encoder."""
    if prompts or guidance != 1:
        raise InputError(
            f"{pipeline}: no text-to-image pipeline, so that it takes no prompts and sampler.guidance = 1; given are"
            f" {len(prompts) or 'no'} prompts and guidance {guidance}"
        )


def guided(denoise: Denoise, condition: Condition, blank: Condition, guidance: float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): ε_∅ + s(ε_c − ε_∅), both in one network call; ε_c where s = 1.

    Args:
        condition: c, a row an image.
        blank: ∅, the same for the empty prompt.
    """
    if guidance == 1:
        return lambda x, t: denoise(x, t, **condition)
    both = {key: torch.cat([blank[key], condition[key]]) for key in condition}

    def call(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        without, with_condition = denoise(torch.cat([x, x]), t, **both).float().chunk(2)
        return without + guidance * (with_condition - without)

    return call
