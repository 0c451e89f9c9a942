"""The task vector τ_i = θ_i − θ of one expert (Eq. 8)."""

import argparse
from pathlib import Path

from deme_core.checkpoints import denoiser_dir
from deme_core.merging.task_vectors import write_task_vector
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--expert", type=Path, required=True, help="output of the stage finetune_range")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file of the vector")
    args = parser.parse_args()
    write_task_vector(denoiser_dir(args.pretrained), args.expert, args.out)
    return f"τ of {args.expert} -> {args.out}"


if __name__ == "__main__":
    run(main)
