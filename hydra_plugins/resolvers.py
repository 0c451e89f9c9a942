"""The resolvers of conf/config.yaml, when DVC composes params: what dvc.yaml makes stages of, and what they read."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from deme_core.dag import dag
from deme_core.inputs import inputs
from deme_core.params import check
from deme_core.paths import at_home

ROOT = Path(__file__).resolve().parents[1]

SECTIONS = ("data", "reference", "pretrain_load", "merge_search", "sample", "judges", "clip_score", "search_clip_score")

# A DictConfig, since a plain dict is no node of a config. The checks are what dag and inputs take for granted: all else
# is left to the stage validate.


def _dag(
    N: Any, baselines: Any, prompts: Any, draws: Any, directions: Any, analyses: Any, *, _root_: DictConfig
) -> DictConfig:
    if not OmegaConf.is_interpolation(_root_, "inputs"):
        _check_derived("inputs", _root_.get("inputs"))
    for key, number in {"N": N, "random_draws": draws}.items():
        check(type(number) is int, key, number, "must be of type int")
    for key, names in {"baselines": baselines, "directions": directions}.items():
        _check_names(key, names)
    if not isinstance(analyses, str):
        _check_names("analyses", analyses)
    _check_section("prompts", prompts)
    for name, prompt_set in prompts.items():
        _check_section(f"prompts.{name}", prompt_set)
    references = {name: at_home(prompt_set.get("reference")) for name, prompt_set in prompts.items()}
    figures = analyses if isinstance(analyses, str) else list(analyses)
    return DictConfig(dag(N, list(baselines), references, draws, list(directions), figures))


def _inputs(*, _root_: DictConfig) -> DictConfig:
    for name in SECTIONS:
        _check_section(name, _root_.get(name))
    _check_derived("dag", _root_.get("dag"))
    return DictConfig(inputs(_root_, ROOT))


def _check_derived(key: str, value: Any) -> None:
    check(
        isinstance(value, DictConfig),
        key,
        _plain(value),
        "is derived from the other params; set those, and leave it out",
    )


def _check_names(key: str, value: Any) -> None:
    right = isinstance(value, ListConfig) and all(isinstance(name, str) for name in value)
    check(right, key, _plain(value), "must be a list of names, as [a,b]")


def _check_section(key: str, value: Any) -> None:
    check(isinstance(value, DictConfig), key, _plain(value), "must be a section with keys, not a single value")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


OmegaConf.register_new_resolver("dag", _dag, replace=True)
OmegaConf.register_new_resolver("inputs", _inputs, replace=True)
