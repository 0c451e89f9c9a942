"""Random vectors of the task vectors' norms: a merge that gains no more than theirs has learned nothing."""

import argparse
from pathlib import Path

from deme_core.merging.random_vectors import write_random_vectors
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read
from deme_core.stage import run, run_params


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", type=int, required=True, help="which of the draws")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--out", type=Path, required=True, help="folder of the random vectors")
    args = parser.parse_args()
    vectors = vector_files(args.vectors)
    write_random_vectors(vectors, args.out, run_params(read()).seed, args.draw)
    return f"draw {args.draw}: {len(vectors)} random vectors of the task vectors' norms -> {args.out}"


if __name__ == "__main__":
    run(main)
