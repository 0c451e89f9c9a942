"""Held-out denoising loss of every model on every timestep range, as a CSV: does each expert win its own range?"""

import argparse
from pathlib import Path

import pandas as pd

from deme_core.checkpoints import denoiser_dir, denoisers, load_noise_schedule
from deme_core.data.examples import load_examples
from deme_core.device import best_device
from deme_core.params import read, section
from deme_core.stage import run
from deme_core.training.range_losses import LossMatrixParams, model_losses, range_losses


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=Path, required=True, help="output of the stage encode")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--experts", type=Path, required=True, help="folder of the experts 1 … N")
    parser.add_argument("--merged", type=Path, nargs="+", required=True, help="merged pipelines")
    parser.add_argument("--out", type=Path, required=True, help="CSV, one row a model, one column a range")
    args = parser.parse_args()
    draws = section(read(), "loss_matrix", LossMatrixParams).draws
    examples = load_examples(args.examples, "heldout")
    experts, ranges = denoisers(args.experts)
    folders = {"pretrained": denoiser_dir(args.pretrained)}
    folders |= {f"expert {expert.name}": expert for expert in experts}
    folders |= {merged.name: denoiser_dir(merged) for merged in args.merged}
    schedule = load_noise_schedule(args.pretrained)
    losses = model_losses(folders, schedule, examples, ranges, draws, best_device())
    rows = {name: range_losses(of_model) for name, of_model in losses.items()}
    columns = [f"[{low}, {high})" for low, high in map(ranges.range, range(1, ranges.N + 1))]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame.from_dict(rows, orient="index", columns=columns).to_csv(args.out, index_label="model")
    return f"{len(rows)} models on {len(columns)} ranges -> {args.out}"


if __name__ == "__main__":
    run(main)
