"""The texts of one prompt set that text-to-image models are sampled with.

What will measure the images is opened here, too: a CLIP model that is missing ends a run before anything is trained.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from deme_core.inputs import check_inputs
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import FeatureParams
from deme_core.metrics.prompt_check import check_measures
from deme_core.params import read, section
from deme_core.prompts.table import load_prompts, prompt_params
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", required=True, help="name of the prompt set")
    parser.add_argument("--out", type=Path, required=True, help="JSON of its name, its texts, and images each")
    args = parser.parse_args()
    check_inputs(params := read())  # a folder may have come since validate ran
    prompt_set = prompt_params(params)[args.set]
    prompts = load_prompts(args.set, prompt_set)
    extractor = section(params, "reference", FeatureParams).extractor
    check_measures(prompt_set, section(params, "clip_score", ClipScoreParams), extractor)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(asdict(prompts), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    return f"{args.set}: {len(prompts.texts):,} texts -> {args.out}"


if __name__ == "__main__":
    run(main)
