"""The table of prompt sets: a source -> a function that reads all its prompts. A new kind of file is one row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deme_core.errors import InputError
from deme_core.params import section
from deme_core.prompts.captions import read_heldout
from deme_core.prompts.coco import read_coco
from deme_core.prompts.imagenet import read_class_names
from deme_core.prompts.lines import read_lines
from deme_core.prompts.parti import read_parti
from deme_core.prompts.settings import PromptParams, Prompts

SOURCES: dict[str, Callable[[Path], list[str]]] = {
    "coco": read_coco,
    "imagenet": read_class_names,
    "parti": read_parti,
    "file": read_lines,
    "heldout": read_heldout,
}


def prompt_params(params: dict[str, Any]) -> dict[str, PromptParams]:
    """The section `prompts` of params.yaml: the name of each set -> what it is."""
    sets = params.get("prompts") or {}
    if not isinstance(sets, dict):
        raise InputError(f"params: prompts = {sets!r}: must map the name of a set to its keys; conf/ shows how")
    return {name: section({f"prompts.{name}": keys}, f"prompts.{name}", PromptParams) for name, keys in sets.items()}


def load_prompts(name: str, params: PromptParams) -> Prompts:
    """The prompts of the set `name`.

    Raises:
        InputError: the source is unknown, its file is missing, empty or of another format, or holds fewer than `count`.
    """
    if params.source not in SOURCES:
        raise InputError(f"params: prompts.{name}.source = {params.source!r}: known are {', '.join(SOURCES)}")
    texts = SOURCES[params.source](Path(params.path))
    if not texts:
        raise InputError(f"{params.path}: holds no prompt")
    if params.count is not None and len(texts) < params.count:
        raise InputError(
            f"params: prompts.{name}.count = {params.count}: {params.path} holds {len(texts)} prompts; lower it, or set"
            " it to null for all"
        )
    return Prompts(name, tuple(params.template.format(text) for text in texts[: params.count]), params.each)
