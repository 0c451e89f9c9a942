"""Metrics of one model with intervals, and their change against the pretrained model: one flat JSON."""

import argparse
from pathlib import Path

import pandas as pd

from deme_core.data.images import REPORTED
from deme_core.json_files import read_json
from deme_core.metrics.evaluation import EvaluateParams, check_samples, evaluate, protocol_of
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.headline import said, write_measures
from deme_core.metrics.statistics_files import read_statistics
from deme_core.metrics.two_sample import two_sample_metrics
from deme_core.metrics.verdict import JUDGE, judged_metrics
from deme_core.params import read, section
from deme_core.stage import run
from deme_core.tensors import read_recipe


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True, help="output of the stage features for the model")
    parser.add_argument("--pretrained", type=Path, required=True, help="the same for the pretrained model")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage reference")
    parser.add_argument("--judged", type=Path, required=True, help="outputs of the stage judge for the model")
    parser.add_argument("--judged-pretrained", type=Path, required=True, help="the same for the pretrained model")
    parser.add_argument("--out", type=Path, required=True, help="flat JSON of everything")
    parser.add_argument("--metrics", type=Path, required=True, help="flat JSON of what DVC prints")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of the scores of each seed block")
    args = parser.parse_args()
    params = section(read(), "evaluate", EvaluateParams)
    made = read_recipe(args.features)
    check_samples(made["images"], params.blocks)
    features, pretrained = (read_features(file, made["extractor_sha256"]) for file in (args.features, args.pretrained))
    references = {
        part: read_features(args.reference / f"{part}.safetensors", made["extractor_sha256"])
        for part in REPORTED
        if (args.reference / f"{part}.safetensors").is_file()
    }
    statistics, published = read_statistics(args.reference) or (None, None)
    judged = read_json(args.judged.with_suffix(".json"))
    ours, theirs = (
        pd.read_csv(file.with_suffix(".csv"), index_col="block") for file in (args.judged, args.judged_pretrained)
    )
    published = published and f"{published['file']}-{published['sha256'][:8]}"
    protocol = protocol_of(made, params, len(references["train"]), published, judged["judges"])
    metrics, scores = evaluate(features, pretrained, references, params, statistics)
    metrics |= judged_metrics(ours, theirs, judged["names"], list(references))
    told, told_scores = two_sample_metrics(judged["two_sample"])
    metrics, scores = metrics | told, scores | told_scores
    write_measures(metrics | protocol, args.out, args.metrics)
    args.scores.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(scores).join(ours.add_prefix(JUDGE)).to_csv(args.scores, index_label="block")
    return f"{said(metrics)} -> {args.metrics}"


if __name__ == "__main__":
    run(main)
