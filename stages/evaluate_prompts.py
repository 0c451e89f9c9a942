"""A model's images of one prompt set: CLIP score, and where there are real images, Fréchet distance: one flat JSON."""

import argparse
from functools import partial
from pathlib import Path

from deme_core.data.archive import read_images, read_protocol
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.metrics.features import FeatureParams, load_extractor
from deme_core.metrics.headline import said, write_measures
from deme_core.metrics.prompt_evaluation import evaluate_prompts
from deme_core.params import read, section
from deme_core.prompts.saved import read_prompts
from deme_core.prompts.table import prompt_params
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", required=True, help="name of the prompt set")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of the outputs of the stages prompts")
    parser.add_argument("--samples", type=Path, required=True, help="images of the set's prompts, in turn")
    parser.add_argument("--out", type=Path, required=True, help="flat JSON of everything")
    parser.add_argument("--metrics", type=Path, required=True, help="flat JSON of what DVC prints")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of the score of each image")
    args = parser.parse_args()
    params, protocol = read(), read_protocol(args.samples)
    prompts = read_prompts(args.prompts, args.set)
    metrics, scores = evaluate_prompts(
        partial(read_images, args.samples, protocol["images"]),
        protocol,
        prompts,
        prompt_params(params)[args.set],
        ClipScore.of(section(params, "clip_score", ClipScoreParams)),
        load_extractor(section(params, "reference", FeatureParams).extractor),
        section(params, "evaluate", EvaluateParams).blocks,
    )
    write_measures(metrics, args.out, args.metrics)
    args.scores.parent.mkdir(parents=True, exist_ok=True)
    scores.to_csv(args.scores, index=False)
    return f"{said(metrics)} -> {args.metrics}"


if __name__ == "__main__":
    run(main)
