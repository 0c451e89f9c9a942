"""The prompt sets of a run as the stages `prompts` wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path

from deme_core.errors import InputError
from deme_core.prompts.settings import Prompts, in_turn


def read_prompts(folder: Path, name: str) -> Prompts:
    """The set `name` in the folder: a JSON of its texts, and images each.

    Raises:
        InputError: there is no such file.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; `dvc repro prompts@{name}` writes it, if params: prompts has the set")
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Prompts(name, tuple(stored["texts"]), stored["each"])


def search_prompts(captions: Sequence[str], folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """What a search samples: training captions in turn with the texts of these sets; nothing without captions."""
    return in_turn([captions, *(read_prompts(folder, name).texts for name in names)]) if captions else ()
