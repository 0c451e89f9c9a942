"""What does an experiment need, and what will it cost?

Exit status 1 if something is missing on this machine.
"""

import sys

from compose import asked
from omegaconf import OmegaConf

from deme_core.preflight.check import check
from deme_core.stage import run


def main() -> None:
    """Compose the params of these Hydra overrides and check them."""
    params = OmegaConf.to_container(OmegaConf.create(asked("python conf/check.py", __doc__, "experiment=cifar10 N=8")))
    report, complete = check(params)
    print(report)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    run(main)
