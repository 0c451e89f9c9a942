"""Bring the pretrained pipeline in: from the zoo, a directory, the hub, or by training one from scratch."""

import argparse
import json
from pathlib import Path

from deme_core.checkpoints import load_noise_schedule, verify_pipeline
from deme_core.commits import say_commit
from deme_core.components import is_text_to_image
from deme_core.data.examples import Pixels
from deme_core.data.images import Images, load_part
from deme_core.fit import check_architecture, check_base
from deme_core.hub_layouts import import_pipeline, resolve_source
from deme_core.inputs import check_inputs
from deme_core.params import read, section
from deme_core.processes import by_main
from deme_core.sampling.schedulers import check_sampler
from deme_core.sampling.settings import sampler_of
from deme_core.stage import run, run_params
from deme_core.training.flips import check_flips
from deme_core.training.scratch import PretrainParams


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data, for source: train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pipeline")
    args = parser.parse_args()
    check_inputs(params := read())  # a folder may have come since validate ran
    load, images = section(params, "pretrain_load", PretrainParams), load_part(args.data, "train")
    if load.train is not None:
        from deme_core.training.scratch import train_from_scratch

        check_architecture(load.train.architecture, images.shape)
        train_from_scratch(load.train, Pixels(images.pixels), args.out, seed=run_params(params).seed)
    else:
        by_main(lambda: bring_in(load, images, args.out))
    verify_pipeline(args.out)
    # Of a model on the hub the stage validate saw nothing.
    check_sampler(load_noise_schedule(args.out), sampler_of(params), text := is_text_to_image(args.out))
    if text:
        check_flips(params)
    return f"{'trained from scratch' if load.train else load.source} -> {args.out}"


def bring_in(load: PretrainParams, images: Images, out: Path) -> None:
    folder = resolve_source(load.source, load.revision)
    check_base(folder, images.shape if len(images) else None, captions=images.captions is not None)
    import_pipeline(folder, out)
    if folder != Path(load.source) and (commit := say_commit(load.source, folder, "pretrain_load.revision")):
        (out / "hub.json").write_text(json.dumps({"source": load.source, "commit": commit}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, shared=True)
