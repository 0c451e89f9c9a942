"""How fast batches come from a set of images that lies on disk: `python benchmarks/data.py --help`.

Made-up images of LSUN's size are written as the stage data writes them, and batches of a random order gathered as
bytes, which is what the CPU does for a GPU: from memory, from the mapped file whose pages are cached, and from one of
which no page is.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from deme_core.data.images import Images, load_part, new_pixels, save_part
from deme_core.stage import run
from deme_core.tensors import shapes

BATCH, SHARE = 64, 4  # images a batch; a way is timed on one SHARE-th of the set, so that hardly a page is read twice


def write_images(folder: Path, count: int, size: int) -> None:
    """Noise, so that no file system can compress it."""
    file = folder / "train.safetensors"
    if not file.is_file() or shapes(file)["labels"] != (count,):
        pixels = new_pixels((count, 3, size, size))
        for k, image in enumerate(pixels):
            image.random_(0, 256, generator=torch.Generator().manual_seed(k))
        save_part(folder, "train", Images(pixels, torch.zeros(count, dtype=torch.int64)))


def forget(file: Path) -> None:
    """No page of the file stays cached."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(pixels: torch.Tensor, order: torch.Tensor) -> float:
    """Images a second."""
    start = time.perf_counter()
    for index in order.split(BATCH):
        pixels[index]
    return len(order) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the images; they are not removed")
    parser.add_argument("--images", type=int, default=20000, help="of 256×256: 3.9 GB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON of the rates")
    args = parser.parse_args()
    write_images(args.work, args.images, 256)
    file, found = args.work / "train.safetensors", {"memory": [], "cached": [], "cold": []}
    for repeat in range(args.repeats):
        shuffled = torch.randperm(args.images, generator=torch.Generator().manual_seed(repeat))
        order = shuffled[: args.images // SHARE]
        forget(file)
        found["cold"].append(rate(load_part(args.work, "train").pixels, order))
        mapped = load_part(args.work, "train").pixels
        in_memory = mapped.clone()
        found["cached"].append(rate(mapped, order))
        found["memory"].append(rate(in_memory, order))
        del mapped, in_memory  # pages that are mapped cannot be forgotten
    rates = {way: {"images_per_s": statistics.median(measured), "all": measured} for way, measured in found.items()}
    for way, row in rates.items():
        row["of_memory"] = statistics.median(a / b for a, b in zip(found[way], found["memory"], strict=True))
        print(f"{way:8} {row['images_per_s']:8,.0f} images/s, {row['of_memory']:.2f} of memory's")
    if args.out:
        args.out.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
