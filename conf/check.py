"""What does an experiment need, and what will it cost? `python conf/check.py [experiment=cifar10 N=8 …]`.

Exit status 1 if something is missing on this machine.
"""

import sys

from compose import compose_params
from omegaconf import OmegaConf

from deme_core.preflight.check import check
from deme_core.stage import run


def main() -> None:
    """Compose the params of these Hydra overrides and check them."""
    params = OmegaConf.to_container(OmegaConf.create(compose_params(sys.argv[1:])))
    report, complete = check(params)
    print(report)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    run(main)
