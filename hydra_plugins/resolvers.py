"""The resolver `dag`: ${dag:${N},${rivals}} is what dvc.yaml makes stages of. DVC composes params.yaml with it."""

from omegaconf import DictConfig, OmegaConf

from deme_core.dag import dag

# A DictConfig, since a plain dict is no node of a config.
OmegaConf.register_new_resolver("dag", lambda N, rivals: DictConfig(dag(int(N), list(rivals))), replace=True)
