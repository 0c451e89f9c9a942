"""What the pretrained model makes, to be trained on. `accelerate launch` shares out the work."""

import argparse
from pathlib import Path

from deme_core.data.images import load_part
from deme_core.params import read, section
from deme_core.sampling.sample import sample_model
from deme_core.sampling.settings import OwnParams, SamplerParams
from deme_core.seeds import SeedBlock
from deme_core.stage import run, run_params


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the pipeline, output of the stage pretrain_load")
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data, for its captions")
    parser.add_argument("--out", type=Path, required=True, help="folder of the archives")
    args = parser.parse_args()
    params = read()
    own_samples, sampler = section(params, "own_samples", OwnParams), section(params, "sampler", SamplerParams)
    first = own_samples.first(run_params(params).seed)
    prompts = load_part(args.data, "train").prompts
    sample_model(args.model, args.model, sampler, own_samples.whole, args.out, prompts, SeedBlock.OWN, first)
    return f"{own_samples.whole:,} images -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
