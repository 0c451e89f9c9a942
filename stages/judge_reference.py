"""What every judge says of the real images, their plain statistics, and the grey levels of the training part."""

import argparse
import json
from pathlib import Path

from deme_core.data.images import REPORTED, load_part
from deme_core.data.no_images import refuse_none
from deme_core.metrics.evaluation import EvaluateParams
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.image_statistics import image_statistics
from deme_core.metrics.judges import load_judges, real_distance
from deme_core.metrics.two_sample import grey_levels
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import read, section
from deme_core.sampling.settings import SampleParams
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the features")
    args = parser.parse_args()
    parts = {part: load_part(args.data, part) for part in REPORTED}
    refuse_none(parts["train"])
    params, floor = read(), {}
    images = section(params, "sample", SampleParams).images // section(params, "evaluate", EvaluateParams).blocks
    judges = load_judges(Path(section(params, "judges", JudgeParams).folder))
    for judge in judges:
        features = {part: judge.extractor([images.pixels]) for part, images in parts.items() if len(images)}
        for part, rows in features.items():
            write_features(args.out / judge.name / f"{part}.safetensors", rows, judge.extractor)
        if "heldout" in features:
            floor[judge.name] = real_distance(judge, features["heldout"], features["train"], images)
    statistics = {part: image_statistics(images.pixels.split(1000)) for part, images in parts.items() if len(images)}
    train = parts["train"].pixels
    found = statistics | {"levels": grey_levels(train), "floor": floor, "floor_images": min(images, len(train))}
    (args.out / "statistics.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return f"{', '.join(map(str, statistics))} images by {len(judges)} judges -> {args.out}"


if __name__ == "__main__":
    run(main)
