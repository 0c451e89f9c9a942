"""Metrics of one model with intervals, and their change against the pretrained model: one flat JSON."""

import argparse
import json
from pathlib import Path

import pandas as pd

from deme_core.data.images import PARTS
from deme_core.metrics.evaluation import EvaluateParams, check_samples, evaluate
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.statistics_files import read_statistics
from deme_core.params import read, section
from deme_core.stage import run
from deme_core.tensors import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True, help="output of the stage features for the model")
    parser.add_argument("--baseline", type=Path, required=True, help="the same for the pretrained model")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--out", type=Path, required=True, help="flat JSON")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of the scores of each seed block")
    args = parser.parse_args()
    params = section(read(), "evaluate", EvaluateParams)
    made = read_recipe(args.features)
    check_samples(made["images"], params.blocks)
    features, baseline = (read_features(file, made["extractor_sha256"]) for file in (args.features, args.baseline))
    references = {
        part: read_features(args.reference / f"{part}.safetensors", made["extractor_sha256"])
        for part in PARTS
        if (args.reference / f"{part}.safetensors").is_file()
    }
    statistics, published = read_statistics(args.reference) or (None, None)
    protocol = {
        "images": made["images"],
        "seed_block": made["seed_block"],
        "seed_blocks": params.blocks,
        "reference_images": len(references["train"]),
        "extractor": f"{made['extractor']}-{made['extractor_sha256'][:8]}",
        **({"reference_statistics": f"{published['file']}-{published['sha256'][:8]}"} if published else {}),
        **{f"sampler_{key}": value for key, value in made["sampler"].items()},
        "device": made["device"],
        "parameters": made["parameters"],
        "macs_per_step": made["macs_per_step"],
    }
    metrics, scores = evaluate(features, baseline, references, params, statistics)
    for out in (args.out, args.scores):
        out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(metrics | protocol, indent=2) + "\n")
    pd.DataFrame(scores).to_csv(args.scores, index_label="block")


if __name__ == "__main__":
    run(main)
