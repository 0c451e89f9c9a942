"""The prompt sets of a run as the stage `prompts` wrote them."""

import json
from pathlib import Path

from deme_core.errors import InputError
from deme_core.prompts.settings import Prompts


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
