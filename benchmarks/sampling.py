"""What sampling on a CPU takes where blocks are the unit of parallel work, and what it did where operations were.

    python benchmarks/sampling.py --out benchmarks/sampling.json       # a few minutes; the machine should be idle

Of zoo/digits-ddpm: 1,000 and 3,000 images, and a trial of the search with 1,500, which are scored, too. Each of them by
blocks (as many at a time as there are cores, each on one core) and by operations (one block after the other, each of
whose operations all cores share), on the idle machine and beside a process that keeps one core busy. All in one run,
in turn; the least time of a cell counts, since what disturbs a run can only make it longer.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from deme_core.checkpoints import load_denoiser
from deme_core.data.images import DataParams
from deme_core.data.sources import read_digits
from deme_core.denoising import single
from deme_core.metrics.features import load_extractor
from deme_core.report.text import markdown
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.search.objective import Scorer, frechet
from deme_core.seeds import SeedBlock
from deme_core.stage import run

CPU, BASE, EXTRACTOR = torch.device("cpu"), Path("zoo/digits-ddpm"), "zoo/digits-features"
PROTOCOL = SamplerParams(kind="ddim", steps=20, spacing="uniform", block=500, dtype="float32")  # the run `digits`
USERS = ("deme_core.sampling.generate", "deme_core.metrics.extractor")
SPIN = "x = 1.0\nwhile True: x = x * 1.0000001 % 3.0"


def tasks() -> dict[str, Callable[[], object]]:
    """What is timed."""
    sampler, denoise = Sampler.of(BASE, PROTOCOL, CPU), single(load_denoiser(BASE / "unet"), CPU)
    extractor = load_extractor(EXTRACTOR)
    digits = read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2)).pixels
    score = frechet(Scorer(extractor, extractor([digits])))
    return {
        "1,000 images": lambda: sampler.images(denoise, SeedBlock.SEARCH, 0, 1000),
        "3,000 images": lambda: sampler.images(denoise, SeedBlock.SEARCH, 0, 3000),
        "a trial of 1,500": lambda: score(sampler.generate(denoise, SeedBlock.SEARCH, 0, 1500), []),
    }


@contextmanager
def by_operations() -> Iterator[None]:
    """One block after the other, each on all threads of torch."""
    with ExitStack() as stack:
        for module in USERS:
            stack.enter_context(patch(f"{module}.in_order", lambda call, pieces, device=CPU: map(call, pieces)))
        yield


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process computes meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--old-beside", action="store_true", help="time operations beside a busy core, once: minutes")
    parser.add_argument("--out", type=Path, help="JSON of all times; a table of their ratios beside it, as .md")
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for name, task in tasks().items():
        found[name] = by_way = {"blocks": [], "operations": [], "blocks_busy": [], "operations_busy": []}
        task()
        for _ in range(args.repeats):
            by_way["blocks"].append(seconds(task))
            with by_operations():
                by_way["operations"].append(seconds(task))
            with busy_core():
                by_way["blocks_busy"].append(seconds(task))
    if args.old_beside:
        name, task = next(iter(tasks().items()))
        with by_operations(), busy_core():
            found[name]["operations_busy"].append(seconds(task))
    rows = []
    for name, by_way in found.items():
        least = {way: min(times) for way, times in by_way.items() if times}
        blocks, operations, busy = (least[way] for way in ("blocks", "operations", "blocks_busy"))
        worst = least.get("operations_busy")
        rows.append([
            name, f"{operations:.2f} s", f"{blocks:.2f} s", f"{blocks / operations:.2f}", f"{busy:.2f} s",
            f"{busy / blocks:.2f}", f"{worst:.0f} s" if worst else "—",
        ])  # fmt: skip
    header = [
        "", "by operations, idle", "by blocks, idle", "ratio", "by blocks, beside a busy core", "to idle",
        "by operations, beside it",
    ]  # fmt: skip
    table = markdown(header, rows)
    print(f"{torch.get_num_threads()} cores\n{table}")
    if args.out:
        args.out.write_text(json.dumps({"cores": torch.get_num_threads(), "seconds": found}, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
