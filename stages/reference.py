"""Features of the real images, training and held-out part, by the run's extractor."""

import argparse
from pathlib import Path

from deme_core.data.images import REPORTED, load_part
from deme_core.data.no_images import refuse_none
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import FeatureParams, load_extractor
from deme_core.metrics.statistics_files import import_statistics
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="output of the stage data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the features")
    args = parser.parse_args()
    parts = {part: load_part(args.data, part) for part in REPORTED}
    refuse_none(parts["train"])
    params = section(read(), "reference", FeatureParams)
    extractor = load_extractor(params.extractor)
    for part, images in parts.items():
        if len(images):
            features = extractor([images.pixels])
            write_features(args.out / f"{part}.safetensors", features, extractor)
    if params.statistics is not None:
        import_statistics(Path(params.statistics), features.shape[1], args.out)
    made = ", ".join(f"{len(images):,} {part}" for part, images in parts.items() if len(images))
    return f"features of {made} images by {extractor.name} -> {args.out}"


if __name__ == "__main__":
    run(main)
