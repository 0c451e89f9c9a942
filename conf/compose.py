"""Write params.yaml from conf/, as `dvc exp run` does: `python conf/compose.py [N=8 p=0.3 …]`."""

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parent


def compose_params(overrides: list[str]) -> str:
    """The text of params.yaml for these Hydra overrides."""
    sys.path.insert(0, str(CONF.parent / "hydra_plugins"))
    import resolvers  # noqa: F401 (registers `dag`)

    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", overrides)
    return OmegaConf.to_yaml(config, resolve=True)


if __name__ == "__main__":
    (CONF.parent / "params.yaml").write_text(compose_params(sys.argv[1:]), encoding="utf-8")
