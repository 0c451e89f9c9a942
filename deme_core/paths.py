"""What a path among the params names: a file or folder of this machine, or several by a pattern."""

from pathlib import Path

WILD = frozenset("*?[")


def local(path: str) -> Path:
    """A path whose `~` is the home of its user; where there is no such user it stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def matches(path: str | None) -> list[Path]:
    """What a path names, in the order of the names: itself where it exists, else what matches it as a pattern.

    `*`, `?` and `[…]` stand in any part of a pattern, and `**` for folders at any depth.
    """
    if not path:
        return []
    whole = local(path)
    if whole.exists() or not WILD & set(str(whole)):
        return [whole] if whole.exists() else []
    above = fixed(whole)
    return sorted(above.glob(str(whole.relative_to(above))))


def fixed(pattern: Path) -> Path:
    """The folder in which all matches of a pattern lie."""
    while WILD & set(str(pattern)):
        pattern = pattern.parent
    return pattern
