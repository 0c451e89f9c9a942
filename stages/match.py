"""The pretrained model's images with brightness and contrast set to the data's: a baseline that knows two numbers."""

import argparse
from pathlib import Path

from deme_core.data.images import load_part
from deme_core.sampling.matched import match_images
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="output of the stage sample for the model")
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the archives")
    args = parser.parse_args()
    match_images(args.samples, load_part(args.data, "train").pixels, args.out)
    return f"{args.samples} with the data's brightness and contrast -> {args.out}"


if __name__ == "__main__":
    run(main)
