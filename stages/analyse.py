"""One figure of the paper from the run's own models: its numbers as a CSV, the picture, and a caption that follows."""

import argparse
import sys
from pathlib import Path

from deme_core.analyses import READS
from deme_core.analysis.figures import write_figure
from deme_core.analysis.run_files import Run
from deme_core.analysis.settings import AnalyseParams
from deme_core.merging.methods import eq_8
from deme_core.params import read, section
from deme_core.sampling.settings import SamplerParams
from deme_core.stage import run, run_params


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", choices=READS, required=True, help="which one")
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode")
    parser.add_argument("--models", type=Path, required=True, help="folder of the run's models and task vectors")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--search", type=Path, required=True, help="output of the stage merge_search")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of the stages sample")
    parser.add_argument("--features", type=Path, required=True, help="folder of the outputs of the stages features")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV, the PNG and the caption")
    args = parser.parse_args()
    params = read()
    top = run_params(params)
    files = {name: value for name, value in vars(args).items() if name not in ("figure", "out")}
    finished = Run(
        params=section(params, "analyse", AnalyseParams), sampler=section(params, "sampler", SamplerParams),
        extractor=params["reference"]["extractor"], N=top.N, boundaries=top.boundaries, baselines=top.baselines,
        directions=top.directions, random_draws=top.random_draws, merge=eq_8(params), **files,
    )  # fmt: skip
    print(write_figure(args.figure, finished, args.out), file=sys.stderr)
    return f"{args.figure} -> {args.out / args.figure}.csv, .png and .md"


if __name__ == "__main__":
    run(main)
