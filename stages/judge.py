"""What every judge says of a model's samples, block by block, and the plain statistics of its images."""

import argparse
import json
from pathlib import Path

import pandas as pd

from deme_core.data.archive import read_images
from deme_core.data.images import REPORTED
from deme_core.json_files import read_json
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.image_statistics import image_statistics
from deme_core.metrics.judges import block_distances, group_name, load_judges
from deme_core.metrics.two_sample import GREYS, quantised, two_sample
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import read, section
from deme_core.sampling.settings import SampleParams
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="output of the stage sample")
    parser.add_argument("--reference", type=Path, required=True, help="output of the stage judge_reference")
    parser.add_argument("--out", type=Path, required=True, help="CSV of the distances of each seed block")
    parser.add_argument("--protocol", type=Path, required=True, help="JSON: judges by hash, AUCs, statistics")
    args = parser.parse_args()
    params = read()
    folder = Path(section(params, "judges", JudgeParams).folder)
    blocks, images = section(params, "evaluate", EvaluateParams).blocks, section(params, "sample", SampleParams).images
    judges, distances, told = load_judges(folder), {}, {}
    levels = read_json(args.reference / "statistics.json")["levels"]
    for judge in judges:
        references = {
            part: read_features(file, judge.extractor.sha256)
            for part in REPORTED
            if (file := args.reference / judge.name / f"{part}.safetensors").is_file()
        }
        features = judge.extractor(read_images(args.samples, images))
        distances |= block_distances(judge, features, references, blocks)
        if len(levels) < GREYS:
            features = judge.extractor(quantised(read_images(args.samples, images), levels))
        told[judge.name] = two_sample(features, references, blocks)
    found = {
        "judges": group_name(folder, judges),
        "names": [judge.name for judge in judges],
        "two_sample": told,
        "statistics": image_statistics(read_images(args.samples, images)),
    }
    for out in (args.out, args.protocol):
        out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(distances).to_csv(args.out, index_label="block")
    args.protocol.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return f"{images:,} images by {len(judges)} judges -> {args.out}"


if __name__ == "__main__":
    run(main)
