"""Merge: θ + Σ w_i τ_i (Eq. 8) as a complete diffusers pipeline, with the searched or with uniform weights."""

import argparse
import json
from pathlib import Path

from deme_core.merging.merge import write_merged
from deme_core.merging.task_vectors import vector_files
from deme_core.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--search", type=Path, help="result of the stage merge_search; without it w = 1/N")
    parser.add_argument("--out", type=Path, required=True, help="folder of the merged pipeline")
    args = parser.parse_args()
    vectors = vector_files(args.vectors)
    search = json.loads(args.search.read_text()) if args.search else None
    weights = search["weights"] if search else [1 / len(vectors)] * len(vectors)
    write_merged(args.pretrained, vectors, weights, args.out, {"search": search})


if __name__ == "__main__":
    run(main)
