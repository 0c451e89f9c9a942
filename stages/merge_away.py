"""Merge away from own samples by the length that params name: θ − w·mean(τ), which neither search nor image chose."""

import argparse
from pathlib import Path

from deme_core.merging.away import AwayParams
from deme_core.merging.merge import write_merged
from deme_core.merging.methods import eq_8
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--own", type=Path, required=True, help="output of the stage finetune_own")
    parser.add_argument("--out", type=Path, required=True, help="folder of the merged pipeline")
    args = parser.parse_args()
    params = read()
    away, vectors = section(params, "away", AwayParams), vector_files(args.own)
    note = "A step away from what was learned from own samples, of a length that was set; nothing was measured."
    protocol = {"search": None, "note": note}
    write_merged(args.pretrained, vectors, away.weights(len(vectors)), args.out, protocol, eq_8(params))
    return f"θ − {away.w:g}·mean(τ) -> {args.out}"


if __name__ == "__main__":
    run(main)
