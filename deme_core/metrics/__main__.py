"""Features of a folder of real images, which a prompt set's Fréchet distance is to."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import torch

from deme_core.command_line import blamed_on_options, command_line
from deme_core.data.decode import MOST_BYTES, reason
from deme_core.data.files import folder_files, image_names
from deme_core.data.images import DataParams
from deme_core.data.square import to_square
from deme_core.errors import InputError
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import load_extractor
from deme_core.naming import shown
from deme_core.out_files import check_out_files
from deme_core.stage import run

FILTERS = get_args(get_type_hints(DataParams)["resize"])
EXAMPLE = "--images datasets/coco/val2014 --size 256 --extractor zoo/inception-clean --out coco.safetensors"


def main() -> None:
    """Read the arguments, write the file."""
    parser = command_line("python -m deme_core.metrics", __doc__, EXAMPLE)
    parser.add_argument("--images", type=Path, required=True, help="folder, such as COCO's val2014")
    parser.add_argument("--size", type=int, required=True, help="pixels; the short side is brought to it, the rest cut")
    parser.add_argument("--resize", default="bicubic", help=f"{', '.join(FILTERS)}; default bicubic")
    parser.add_argument("--extractor", required=True, help="folder, such as zoo/inception-clean")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file of the features")
    parser.add_argument("--force", action="store_true", help="replace an earlier file --out")
    args = parser.parse_args()
    if args.resize not in FILTERS:
        raise InputError(f"--resize {args.resize}: must be one of {', '.join(FILTERS)}")
    with blamed_on_options("data", {"size": "--size"}):
        params = DataParams(source="folder", path=str(args.images), size=args.size, held_out=0.0, resize=args.resize)
    check_out_files(args.out, [args.out], [args.images, Path(args.extractor)], args.force)
    extractor = load_extractor(args.extractor)
    features = extractor(squares(args.images, params))
    write_features(args.out, features, extractor, {"images": len(features), "size": args.size, "resize": args.resize})


def squares(folder: Path, params: DataParams) -> Iterator[torch.Tensor]:
    """The images below a folder in the order of their names, uint8 [1, 3, size, size] each, one in memory at a time.

    Raises:
        InputError: there is none, or one is unreadable.
    """
    files, left_out = folder_files(str(folder))
    for k, name in enumerate(image_names(files, left_out, folder)):
        try:
            yield torch.from_numpy(to_square(files[name](MOST_BYTES), params, k).copy())[None]
        except Exception as error:  # Pillow raises what it stumbles over
            raise InputError(
                f"{shown(name)}: not a readable image ({reason(error)}); remove it, or fetch it again"
            ) from None


if __name__ == "__main__":
    run(main)
