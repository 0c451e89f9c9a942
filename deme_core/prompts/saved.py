"""The prompt sets of a run as the stage `prompts` wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path

from deme_core.errors import InputError
from deme_core.prompts.settings import Prompts, in_turn


def read_prompts(path: Path, name: str) -> Prompts:
    """The set `name` in the JSON `path`: a name -> its texts, and images each.

    Raises:
        InputError: there is no such file or set.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `dvc repro prompts` writes it")
    sets = json.loads(path.read_text(encoding="utf-8"))
    if name not in sets:
        raise InputError(f"{path}: no prompt set '{name}'; it holds {', '.join(sets) or 'none'}; see params: prompts")
    return Prompts(name, tuple(sets[name]["texts"]), sets[name]["each"])


def search_prompts(captions: Sequence[str], path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """What a search samples: training captions in turn with the texts of these sets; nothing without captions."""
    return in_turn([captions, *(read_prompts(path, name).texts for name in names)]) if captions else ()
