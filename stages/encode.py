"""What the denoiser is trained on: latents and caption embeddings, computed once; or the pixels themselves.

`accelerate launch` shares out the work.
"""

import argparse
from pathlib import Path

from deme_core.data.encode import EncodeParams, encode_parts
from deme_core.data.images import load_part
from deme_core.data.no_images import refuse_none
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data")
    parser.add_argument("--pretrained", type=Path, required=True, help="output of the stage pretrain_load")
    parser.add_argument("--out", type=Path, required=True, help="folder of the examples")
    args = parser.parse_args()
    refuse_none(train := load_part(args.data, "train"))
    encode_parts(args.pretrained, args.data, section(read(), "encode", EncodeParams), args.out)
    return f"{len(train):,} training images and the other parts, as the denoiser takes them -> {args.out}"


if __name__ == "__main__":
    run(main, shared=True)
