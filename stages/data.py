"""Read the data set, check it, and split it into a training and a held-out part."""

import argparse
from pathlib import Path

from deme_core.data.archive import write_grid
from deme_core.data.images import DataParams, save_part
from deme_core.data.sources import read_parts
from deme_core.inputs import check_inputs
from deme_core.params import read, section
from deme_core.stage import run


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the parts")
    args = parser.parse_args()
    check_inputs(params := read())  # a folder may have come since validate ran
    data = section(params, "data", DataParams)
    parts = read_parts(data)
    for part, images in parts.items():
        save_part(args.out, part, images)
    write_grid(args.out / "preview.png", parts["train"].pixels[:100], columns=20, scale=max(1, 64 // data.size))
    return f"{', '.join(f'{len(images):,} {part}' for part, images in parts.items())} images -> {args.out}"


if __name__ == "__main__":
    run(main)
