"""The resolvers of conf/config.yaml, when DVC composes params: what dvc.yaml makes stages of, and what they read."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from deme_core.dag import dag
from deme_core.inputs import inputs

ROOT = Path(__file__).resolve().parents[1]

# A DictConfig, since a plain dict is no node of a config.
OmegaConf.register_new_resolver(
    "dag",
    lambda N, rivals, prompts, draws: DictConfig(
        dag(int(N), list(rivals), {name: own.get("reference") for name, own in prompts.items()}, int(draws))
    ),
    replace=True,
)
OmegaConf.register_new_resolver("inputs", lambda *, _root_: DictConfig(inputs(_root_, ROOT)), replace=True)
