"""Reading JSON that a user brings: whatever is wrong with it is one line that names the file."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from deme_core.errors import InputError
from deme_core.naming import brief, said, shown

Kinds = Mapping[str, Any]
"""Key -> the type of its value, as isinstance takes it; a key that may be absent admits None."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # escaped; most are whole pairs


def parse_json(text: str) -> Any:
    """What a text of JSON means; a key that stands twice in an object is refused, for one of its values would be lost.

    Raises:
        ValueError: it is no JSON, goes too deep, or holds half of a surrogate pair, which no file can be written with.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("its brackets go too deep") from None
    if SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    return found


def read_json(path: Path, kinds: Kinds | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: there is no such file, it holds no JSON object, or a value is not of the kind that `kinds` says.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; write or fetch it")
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no valid JSON ({said(error)}); write or fetch it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object, but {_short(found)}; write or fetch it again")
    check_kinds(found, kinds or {}, path)
    return found


def check_kinds(found: Mapping[str, Any], kinds: Kinds, path: Path) -> None:
    """Refuse an object of the file `path` that lacks a key, or has a value of another kind."""
    for key, kind in kinds.items():
        allowed = get_args(kind) or (kind,)
        if key not in found and NoneType not in allowed:
            raise InputError(f"{path}: lacks '{key}'; write or fetch it again")
        if type(value := found.get(key)) not in allowed:  # a bool is no int here
            names = " or ".join("null" if one is NoneType else one.__name__ for one in allowed)
            raise InputError(f"{path}: '{key}' is {_short(value)}, must be of type {names}; write or fetch it again")


@contextmanager
def blamed_on(path: Path, what: str) -> Iterator[None]:
    """What is raised at foreign content, by a library or by us, becomes an InputError that names its file.

    Args:
        what: cannot be done with the content, for people.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # libraries raise whatever they stumble over
        reason = brief(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}: {what} ({reason}); write or fetch it again") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def _short(value: Any) -> str:
    text = shown(json.dumps(value, ensure_ascii=False))
    return text if len(text) < 60 else f"{text[:60]} …"
