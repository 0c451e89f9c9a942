"""Features of a model's samples, by the run's extractor: every metric is a function of them."""

import argparse
from pathlib import Path

from deme_core.data.archive import read_images, read_protocol
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import FeatureParams, load_extractor
from deme_core.params import read, section
from deme_core.sampling.settings import SampleParams
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="output of the stage sample")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file of the features")
    args = parser.parse_args()
    params = read()
    extractor = load_extractor(section(params, "reference", FeatureParams).extractor)
    images = section(params, "sample", SampleParams).images
    features = extractor(read_images(args.samples, images))
    write_features(args.out, features, extractor, read_protocol(args.samples))
    return f"{len(features):,} images, {features.shape[1]} features each by {extractor.name} -> {args.out}"


if __name__ == "__main__":
    run(main)
