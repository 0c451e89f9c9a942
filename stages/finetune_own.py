"""Finetune the pretrained model on its own samples: the task vector of direction `self`, which a merge leads away from.

`accelerate launch` shares out its batches.
"""

import argparse
from pathlib import Path

import pandas as pd

from deme_core.checkpoints import denoiser_dir
from deme_core.data.examples import load_examples
from deme_core.merging.task_vectors import write_task_vector
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.stage import run, run_params
from deme_core.training.finetune import Curve
from deme_core.training.own_samples import finetune_own
from deme_core.training.settings import TrainingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--own", type=Path, required=True, help="output of the stage own_examples")
    parser.add_argument("--out", type=Path, required=True, help="folder of the denoiser and its task vector")
    parser.add_argument("--curve", type=Path, required=True, help="CSV of the loss")
    args = parser.parse_args()
    params = read()
    training, own = section(params, "finetune_range", TrainingParams), load_examples(args.own / "examples", "train")
    curve = finetune_own(args.pretrained, own, training, args.out / "1", seed=run_params(params).seed)
    by_main(lambda: write(args, curve))


def write(args: argparse.Namespace, curve: Curve) -> None:
    write_task_vector(denoiser_dir(args.pretrained), args.out / "1", args.out / "1.safetensors")
    args.curve.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(curve).to_csv(args.curve, index=False)


if __name__ == "__main__":
    run(main, shared=True)
