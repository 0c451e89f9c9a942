"""Finetune the pretrained model on its own samples: task vectors of direction `self`, which a merge leads away from.

`accelerate launch` shares out its batches.
"""

import argparse
from pathlib import Path

from deme_core.checkpoints import denoiser_dir, train_timesteps
from deme_core.data.examples import load_examples
from deme_core.merging.task_vectors import write_task_vectors
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.sampling.settings import OwnParams
from deme_core.stage import run, run_params
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import ended, finetune_each, write_curves
from deme_core.training.own_samples import PARTS, own_jobs
from deme_core.training.settings import TrainingParams


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--own", type=Path, required=True, help="output of the stage own_examples")
    parser.add_argument("--out", type=Path, required=True, help="folder of the denoisers and their task vectors")
    parser.add_argument("--curve", type=Path, required=True, help="CSV of the loss")
    args = parser.parse_args()
    params = read()
    top = run_params(params)
    ranges = TimestepRanges.equal(section(params, "own_samples", OwnParams).ranges, train_timesteps(args.pretrained))
    jobs = own_jobs(ranges, top.p, section(params, "finetune_range", TrainingParams), top.seed)
    train, validation = (load_examples(args.own / "examples", part) for part in PARTS)
    curves = finetune_each(jobs, args.pretrained, train, args.out, validation)
    by_main(lambda: write_task_vectors(denoiser_dir(args.pretrained), args.out, len(curves)))
    by_main(lambda: write_curves(curves, args.curve))
    return f"on own samples: {ended(curves)} -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
