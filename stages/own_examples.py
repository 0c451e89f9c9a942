"""Own samples as what a denoiser is trained on, as the stage encode does it for real images."""

import argparse
from pathlib import Path

from deme_core.data.archive import read_images
from deme_core.data.encode import EncodeParams, encode_parts
from deme_core.data.images import load_part
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.sampling.settings import OwnParams
from deme_core.stage import run, run_params
from deme_core.training.own_samples import PARTS, save_own_parts


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="output of the stage own_samples")
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data, for its captions")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--out", type=Path, required=True, help="folder of the images and of the examples")
    args = parser.parse_args()
    params = read()
    own_samples, prompts = section(params, "own_samples", OwnParams), load_part(args.data, "train").prompts
    images, examples, first = args.out / "images", args.out / "examples", own_samples.first(run_params(params).seed)
    whole, validation = own_samples.whole, own_samples.validation
    by_main(lambda: save_own_parts(read_images(args.samples, whole), whole, validation, prompts, first, images))
    encode_parts(args.pretrained, images, section(params, "encode", EncodeParams), examples, parts=PARTS)
    return f"{whole - validation:,} own samples to train on, {validation:,} for validation -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
