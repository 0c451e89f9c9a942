"""Params as conf/ composes them, for the tests of params."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import (
    REPOSITORY,
)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from deme_core.stage import run


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int
    rate: float
    flag: bool
    name: str
    kind: Literal["a", "b"]
    maybe: int | None
    values: tuple[float, ...]
    table: dict[str, Any]
    inner: Inner | None


def composed(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `dvc exp run -S ...` writes into params.yaml."""
    monkeypatch.syspath_prepend(REPOSITORY / "hydra_plugins")
    sys.modules.pop("resolvers", None)
    __import__("resolvers")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


def validate(params: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the stage validate on these params in `folder`; whether it left its mark."""
    OmegaConf.save(OmegaConf.create(params), folder / "params.yaml")
    monkeypatch.syspath_prepend(REPOSITORY / "stages")
    sys.modules.pop("validate", None)
    stage = __import__("validate")
    monkeypatch.chdir(folder)
    for name in ("zoo", "prompts"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    monkeypatch.setattr(sys, "argv", ["validate.py", "--out", str(folder / "checked")])
    run(stage.main)
    return (folder / "checked").is_file()


def refusal(params: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line in which the stage validate refuses these params."""
    with pytest.raises(SystemExit) as stopped:
        validate(params, folder, monkeypatch)
    said = str(stopped.value.code)
    assert said.startswith("error: ") and "\n" not in said
    return said
