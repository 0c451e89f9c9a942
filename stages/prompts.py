"""The texts of the prompt sets that text-to-image models are sampled with, as one JSON; none for other models."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from deme_core.params import read
from deme_core.prompts.table import load_prompts, prompt_params
from deme_core.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON: the name of a set -> its texts, and images each")
    args = parser.parse_args()
    sets = {name: asdict(load_prompts(name, params)) for name, params in prompt_params(read()).items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(sets, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
