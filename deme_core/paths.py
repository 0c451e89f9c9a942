"""What a path among the params names: a file or folder of this machine, or several by a pattern."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WILD = frozenset("*?[")


def at_home(value: Any) -> Any:
    """A param, or a section of them, whose paths name the home of a user in the place of `~`.

    What starts with `~` is a path: no param of another kind does. Where there is no such user it stays as it is.
    """
    if isinstance(value, str) and value.startswith("~"):
        try:
            return str(Path(value).expanduser())
        except RuntimeError:
            return value
    if isinstance(value, Mapping):
        return {key: at_home(part) for key, part in value.items()}
    return [at_home(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def matches(path: str | None) -> list[Path]:
    """What a path names, in the order of the names: itself where it exists, else what matches it as a pattern.

    `*`, `?` and `[…]` stand in any part of a pattern, and `**` for folders at any depth.
    """
    if not path:
        return []
    whole = Path(path)
    if whole.exists() or not WILD & set(str(whole)):
        return [whole] if whole.exists() else []
    above = fixed(whole)
    return sorted(above.glob(str(whole.relative_to(above))))


def fixed(pattern: Path) -> Path:
    """The folder in which all matches of a pattern lie."""
    while WILD & set(str(pattern)):
        pattern = pattern.parent
    return pattern
