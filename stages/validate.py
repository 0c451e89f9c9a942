"""Check the whole of params.yaml, before any stage spends time or DVC clears an output."""

import argparse
from pathlib import Path

from deme_core.params import read
from deme_core.preflight.validation import check_params
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="written once everything is right, always the same")
    args = parser.parse_args()
    check_params(read())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("every section of params.yaml is well-formed\n", encoding="utf-8")
    return f"params.yaml is well-formed -> {args.out}"


if __name__ == "__main__":
    run(main)
