"""The resolvers of conf/config.yaml, when DVC composes params: what dvc.yaml makes stages of, and what they read."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from deme_core.dag import dag
from deme_core.inputs import inputs
from deme_core.paths import at_home

ROOT = Path(__file__).resolve().parents[1]

# A DictConfig, since a plain dict is no node of a config.


def _dag(N: int, baselines: Any, prompts: Any, draws: int, directions: Any, analyses: Any) -> DictConfig:
    references = {name: at_home(prompt_set.get("reference")) for name, prompt_set in prompts.items()}
    figures = analyses if isinstance(analyses, str) else list(analyses)
    return DictConfig(dag(int(N), list(baselines), references, int(draws), list(directions), figures))


OmegaConf.register_new_resolver("dag", _dag, replace=True)
OmegaConf.register_new_resolver("inputs", lambda *, _root_: DictConfig(inputs(_root_, ROOT)), replace=True)
