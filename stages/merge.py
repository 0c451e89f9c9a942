"""Merge: θ + Σ w_i τ_i (Eq. 8) as a complete diffusers pipeline, with the searched or with uniform weights."""

import argparse
import dataclasses
from pathlib import Path

from deme_core.merging.merge import write_merged
from deme_core.merging.methods import EQ_8, METHODS, MergeParams, eq_8, formula, own_weights
from deme_core.merging.task_vectors import vector_files
from deme_core.params import read, section
from deme_core.search.result import SearchResult
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--vectors", type=Path, required=True, nargs="+", help="folders of the task vectors")
    parser.add_argument("--search", type=Path, help="result of the stage merge_search; without it w = 1/N")
    parser.add_argument("--params", help="section of params.yaml with the merge method; without it Eq. 8, in its dtype")
    parser.add_argument("--out", type=Path, required=True, help="folder of the merged pipeline")
    args = parser.parse_args()
    params = section(read(), args.params, MergeParams) if args.params else eq_8(read())
    search = SearchResult.read(args.search) if args.search else None
    protocol = {"search": search and dataclasses.asdict(search)}
    if params.method != EQ_8.method:
        protocol["note"] = f"The weights of the search were found for {EQ_8.method}, not for {params.method}."
    weights = search.weights if search and METHODS[params.method].weighted else None
    if weights and search and search.blocks:
        params, weights = own_weights(params, search.blocks, weights)
    vectors = [file for folder in args.vectors for file in vector_files(folder)]
    write_merged(args.pretrained, vectors, weights, args.out, protocol, params)
    return f"{formula(params, weights, len(vectors))} -> {args.out}"


if __name__ == "__main__":
    run(main)
