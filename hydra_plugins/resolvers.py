"""The resolver `dag`: ${dag:${N},${rivals},${prompts}} is what dvc.yaml makes stages of, when DVC composes params."""

from omegaconf import DictConfig, OmegaConf

from deme_core.dag import dag

# A DictConfig, since a plain dict is no node of a config.
OmegaConf.register_new_resolver(
    "dag", lambda N, rivals, prompts: DictConfig(dag(int(N), list(rivals), list(prompts))), replace=True
)
