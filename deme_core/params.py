"""A section of params.yaml -> a frozen dataclass, checked key by key and type by type.

Each dataclass lives beside the code it governs; this module knows none of them.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deme_core.errors import InputError
from deme_core.paths import at_home

T = TypeVar("T")

RENAMED = {"rivals": "baselines", "finetune_rival": "finetune_baseline"}  # keys of earlier params


def read(path: str | Path = "params.yaml") -> dict[str, Any]:
    """Read a YAML file of params. `1e-4` is a number here, as in YAML 1.2 and in Hydra."""
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise InputError(f"{path}: no such params file; run from the repository root")
    return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def section(params: dict[str, Any], name: str, cls: type[T]) -> T:
    """Parse `params[name]` as `cls`; a key may be left out where its field has a default, and `~` is a home folder.

    Raises:
        InputError: the section or a key is missing or unknown (the valid ones are named), a value has
            another type, or the dataclass refuses it.
    """
    if name not in params:
        raise InputError(f"params: section '{name}' is missing; present are {', '.join(sorted(params))}")
    return typing.cast(T, _parse(cls, at_home(params[name]), name))


def check(condition: bool, key: str, value: Any, rule: str) -> None:
    """Refuse a param value in one line: key, value and the rule with its remedy."""
    if not condition:
        raise InputError(f"params: {key} = {value!r}: {rule}")


def check_keys(params: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse a top-level key that is none of the known ones."""
    for key, value in params.items():
        check(key not in RENAMED, key, "…", f"is called {RENAMED.get(key)} now")
        if key not in known:
            name = f"{key}.{next(iter(value))}" if isinstance(value, dict) and value else key  # run.p for p
            check(False, name, "…", f"unknown key{nearest(name, known)}; valid keys are {', '.join(known)}")


def nearest(name: str, known: Collection[str], section: str = "") -> str:
    """What a message about an unknown key adds: the valid key that was probably meant, if any.

    A key of the same name in another section is meant rather than one of another name.

    Args:
        section: what stands before the key in the message.
    """
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = difflib.get_close_matches(name, same or known, n=1, cutoff=0.0 if same else 0.6)
    return f", did you mean {section}{close[0]}?" if close else ""


def _parse(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"params: {where} = {value!r} must be a section with keys, not a single value")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        meant = nearest(unknown[0], fields, f"{where}.")
        raise InputError(f"params: unknown key {where}.{unknown[0]}{meant}; valid keys are {', '.join(sorted(fields))}")
    missing = sorted(name for name in set(fields) - set(value) if fields[name].default is dataclasses.MISSING)
    if missing:
        raise InputError(f"params: {where}.{missing[0]} is missing; conf/experiment/digits.yaml shows every key")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in value.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint`: a scalar type, Literal, Optional, tuple[X, ...], dict, or a nested dataclass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _parse(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        words = [word for a in inner[1:] for word in typing.get_args(a)]  # names beside the type
        if (value is None and len(inner) < len(args)) or value in words:
            return value
        try:
            return _convert(inner[0], value, where)
        except InputError as error:
            if words and not isinstance(value, list):
                raise InputError(f"{error}, or {', '.join(words)}") from None
            raise
    if origin is typing.Literal:
        check(value in args, where, value, f"must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        check(isinstance(value, list | tuple), where, value, "must be a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    right = isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool)
    check(right, where, value, f"must be of type {plain.__name__}")
    return value
