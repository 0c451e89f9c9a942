"""What does an experiment need, and what will it cost?

Exit status 1 if something is missing on this machine.
"""

import sys

from compose import compose_params
from omegaconf import OmegaConf

from deme_core.command_line import command_line
from deme_core.preflight.check import check
from deme_core.stage import run


def main() -> None:
    """Compose the params of these Hydra overrides and check them."""
    parser = command_line("python conf/check.py", __doc__, "experiment=cifar10 N=8")
    parser.add_argument("overrides", nargs="*", help="of Hydra, as `dvc exp run -S` takes them; none: the default")
    params = OmegaConf.to_container(OmegaConf.create(compose_params(parser.parse_args().overrides)))
    report, complete = check(params)
    print(report)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    run(main)
