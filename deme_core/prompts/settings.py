"""What a prompt set is, in params.yaml and in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deme_core.params import check

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PromptParams:
    """One entry of the section `prompts`: a set's name -> these."""

    source: str
    """A row of `deme_core.prompts.table.SOURCES`."""
    path: str
    """The file, or the folder of the images whose captions are the prompts."""
    count: int | None = None
    """How many of the prompts, the same ones in every run; null takes all."""
    each: int = 1
    """Images a prompt."""
    template: str = "{}"
    """Of every prompt: `{}` stands for what the source gives, as in 'a photo of a {}'."""
    size: int | None = None
    """Side to which the images are brought, by Pillow's bicubic filter, before they are measured; null leaves them."""
    reference: str | None = None
    """Features of the real images that a Fréchet distance is to, such as data/reference/heldout.safetensors or what
    `python -m deme_core.metrics` makes of a folder; null measures the CLIP score alone."""

    def __post_init__(self) -> None:
        check(self.count is None or self.count >= 1, "prompts.count", self.count, "must be null or at least 1")
        check(self.each >= 1, "prompts.each", self.each, "must be at least 1 image a prompt")
        check(self.size is None or self.size >= 1, "prompts.size", self.size, "must be null or at least 1 pixel")
        check(
            self.template.count("{}") == 1 and not set("{}") & set(self.template.replace("{}", "")),
            "prompts.template", self.template, "must hold {} once, where the prompt goes, and no other brace",
        )  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """The prompts of a set; every model draws image k from the same noise for the same text."""

    name: str
    texts: tuple[str, ...]
    """One a prompt, not empty."""
    each: int = 1
    """Images a prompt."""

    @property
    def images(self) -> int:
        """Of the whole set."""
        return self.each * len(self.texts)


def of_images(prompts: Sequence[T], images: Iterable[int]) -> list[T]:
    """The prompt of each image: image k has prompt k modulo their number; without prompts there are none.

    So the prompts of a block of consecutive images are spread over the whole set.
    """
    return [prompts[k % len(prompts)] for k in images] if prompts else []


def in_turn(sources: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """A text of each source in turn, as long as the longest has any: the others begin again."""
    longest = max(map(len, sources))
    return tuple(texts[k % len(texts)] for k in range(longest) for texts in sources)
