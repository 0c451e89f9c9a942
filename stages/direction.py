"""The task vector of a direction that needs no training: an earlier checkpoint's, or the one that scales ε."""

import argparse
from pathlib import Path

from deme_core.inputs import check_inputs
from deme_core.merging.untrained import UNTRAINED, EarlyParams
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", choices=UNTRAINED, required=True, help="which of `directions`")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--out", type=Path, required=True, help="folder of the task vector")
    args = parser.parse_args()
    check_inputs(params := read())  # a folder may have come since validate ran
    UNTRAINED[args.name](args.pretrained, section(params, "early", EarlyParams), args.out)
    return f"the task vector of direction {args.name} -> {args.out}"


if __name__ == "__main__":
    run(main)
