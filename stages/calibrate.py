"""Compare the pretrained model's metric with its published figure, before the search, and warn where they differ."""

import argparse
import json
from pathlib import Path

from deme_core.metrics.calibration import CalibrateParams, calibrate
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="metrics of the pretrained model")
    parser.add_argument("--out", type=Path, required=True, help="JSON of the comparison")
    args = parser.parse_args()
    result = calibrate(
        json.loads(args.metrics.read_text(encoding="utf-8")), section(read(), "calibrate", CalibrateParams)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result["message"] or "calibrate.value is null: nothing to compare with"


if __name__ == "__main__":
    run(main)
