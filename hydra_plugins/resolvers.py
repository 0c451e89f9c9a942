"""The resolver `range`: ${range:4} is [1, 2, 3, 4]. DVC composes params.yaml with it."""

from omegaconf import ListConfig, OmegaConf

# A ListConfig, since a plain list is no node of a config.
OmegaConf.register_new_resolver("range", lambda n: ListConfig(list(range(1, int(n) + 1))), replace=True)
