"""Finetune the expert of one timestep range (Sec. 3.2 of the paper). `accelerate launch` shares out its batches."""

import argparse
from pathlib import Path

import pandas as pd

from deme_core.checkpoints import train_timesteps
from deme_core.data.examples import load_examples
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.stage import run, run_params
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import ended, expert_job, finetune
from deme_core.training.settings import TrainingParams


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--range", type=int, required=True, help="which range, from 1 to N")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode")
    parser.add_argument("--out", type=Path, required=True, help="folder of the expert's denoiser")
    parser.add_argument("--curve", type=Path, required=True, help="CSV of the loss")
    args = parser.parse_args()
    params = read()
    top = run_params(params)
    ranges = TimestepRanges.of(top.N, train_timesteps(args.pretrained), top.boundaries)
    job = expert_job(ranges, args.range, top.p, section(params, "finetune_range", TrainingParams), top.seed)
    train, validation = (load_examples(args.examples, part) for part in ("train", "validation"))
    curve = finetune(job, args.pretrained, train, args.out, validation)
    args.curve.parent.mkdir(parents=True, exist_ok=True)
    by_main(lambda: pd.DataFrame(curve).to_csv(args.curve, index=False))
    return f"range {args.range} of {top.N}: {ended([curve])} -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
