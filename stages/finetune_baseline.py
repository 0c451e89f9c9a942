"""Finetune a baseline of DeMe: all timesteps, as many steps as all experts together (deme_core/dag.py names them).

`accelerate launch` shares out its batches.
"""

import argparse
from pathlib import Path

from deme_core.checkpoints import denoiser_dir, load_noise_schedule, train_timesteps
from deme_core.dag import LOSS_EQUIVALENT
from deme_core.data.examples import load_examples
from deme_core.merging.task_vectors import write_task_vectors
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.search.result import SearchResult
from deme_core.stage import run, run_params
from deme_core.timesteps import TimestepRanges
from deme_core.training.baselines import BaselineParams, baseline_jobs
from deme_core.training.finetune import ended, expert_job, finetune_each, write_curves
from deme_core.training.settings import TrainingParams


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", required=True, help="its name in `baselines`")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode")
    parser.add_argument("--search", type=Path, help="result of the search over w >= 0, for loss_equivalent")
    parser.add_argument("--out", type=Path, required=True, help="folder of the baseline's denoisers and task vectors")
    parser.add_argument("--curve", type=Path, required=True, help="CSV of the loss")
    args = parser.parse_args()
    params = read()
    top = run_params(params)
    ranges = TimestepRanges.of(top.N, train_timesteps(args.pretrained), top.boundaries)
    expert = expert_job(ranges, 1, top.p, section(params, "finetune_range", TrainingParams), top.seed)
    weights = SearchResult.read(args.search).weights if args.baseline == LOSS_EQUIVALENT else None
    special = section(params, "finetune_baseline", BaselineParams)
    jobs = baseline_jobs(args.baseline, expert, load_noise_schedule(args.pretrained), special, weights)
    train, validation = (load_examples(args.examples, part) for part in ("train", "validation"))
    curves = finetune_each(jobs, args.pretrained, train, args.out, validation)
    by_main(lambda: write_task_vectors(denoiser_dir(args.pretrained), args.out, len(curves)))
    by_main(lambda: write_curves(curves, args.curve))
    return f"{args.baseline}: {ended(curves)} -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
