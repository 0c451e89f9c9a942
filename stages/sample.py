"""Sample a model on the evaluation seeds, which no search has seen. `accelerate launch` shares out the work."""

import argparse
from pathlib import Path

from deme_core.params import read, section
from deme_core.prompts.saved import read_prompts
from deme_core.sampling.sample import sample_model
from deme_core.sampling.settings import SampleParams, SamplerParams
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a pipeline, or the folder of the experts")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of the outputs of the stages prompts")
    parser.add_argument("--set", help="a prompt set, all of it; else the images that the section sample asks for")
    parser.add_argument("--out", type=Path, required=True, help="folder of the archives")
    args = parser.parse_args()
    params = read()
    sampler, sample = section(params, "sampler", SamplerParams), section(params, "sample", SampleParams)
    name = args.set or sample.prompts
    prompts = read_prompts(args.prompts, name) if name else None
    images = prompts.images if prompts and args.set else sample.images
    sample_model(args.model, args.pretrained, sampler, images, args.out, prompts.texts if prompts else ())
    return f"{images:,} images of {args.model} -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
