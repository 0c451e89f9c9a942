"""How much memory and time a merge takes, beside what one would do instead: `python benchmarks/merge.py --help`.

A made-up U-Net with the architecture of Stable Diffusion 1.x and random weights, and experts θ + noise. Each way of
merging runs in a process of its own, with no page of an input cached, in an order that alternates.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from large import make_inputs, measure, parameters

from deme_core.checkpoints import WEIGHTS
from deme_core.tensor_files import Tensors

BUFFER = 4 << 20


def input_folders(work: Path, experts: int) -> list[Path]:
    """θ, θ_1, …, θ_N."""
    return [work / "base", *(work / f"expert{i}" for i in range(1, experts + 1))]


# The ways to merge; each runs alone, in a process that has imported the same


def in_memory(folders: list[Path], weights: list[float], out: Path) -> None:
    """N + 1 state dicts in memory."""
    from safetensors.torch import load_file, save_file

    theta, *experts = (load_file(folder / WEIGHTS) for folder in folders)
    merged = {
        key: value + sum(w * (expert[key] - value) for w, expert in zip(weights, experts, strict=True))
        for key, value in theta.items()
    }
    out.mkdir()
    save_file(merged, out / WEIGHTS)
    with (out / WEIGHTS).open("rb") as file:
        os.fsync(file.fileno())


def read_and_write(folders: list[Path], weights: list[float], out: Path) -> None:
    """No merge: every input read once, and one output of the same size written."""
    buffer = bytearray(BUFFER)
    out.mkdir()
    with (out / WEIGHTS).open("wb") as target:
        for folder in folders:
            with (folder / WEIGHTS).open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    if folder is folders[0]:
                        target.write(memoryview(buffer)[:got])
        target.flush()
        os.fsync(target.fileno())


def commands(folders: list[Path], weights: list[float], out: Path, mergekit: str | None) -> dict[str, list[str]]:
    """Way -> command line."""
    python, w = sys.executable, [str(weight) for weight in weights]
    this_script = [python, __file__, "--work", str(out.parent), "--weights", *w]
    experts = [str(folder) for folder in folders[1:]]
    ways = {
        "ours": [python, "-m", "deme_core.merging", "--base", str(folders[0]), "--experts", *experts,
                 "--weights", *w, "--out", str(out)],
        "state dicts in memory": [*this_script, "--way", "in_memory"],
        "read all, write one": [*this_script, "--way", "read_and_write"],
    }  # fmt: skip
    if mergekit:
        all_weights = [1 - sum(weights), *weights]
        models = [
            {"model": str(folder / WEIGHTS), "parameters": {"weight": weight}}
            for folder, weight in zip(folders, all_weights, strict=True)
        ]
        recipe = out.parent / "mergekit.json"  # JSON is YAML
        recipe.write_text(
            json.dumps({"merge_method": "linear", "models": models, "parameters": {"normalize": False},
                        "dtype": "float32"})
        )  # fmt: skip
        ways["mergekit"] = [mergekit, str(recipe), str(out), "--quiet"]
    return ways


def largest_difference(one: Path, other: Path) -> float:
    """Largest |a − b| of two models, in units of the last place of the larger of |a|, |b| and 1e-3."""
    worst = 0.0
    files = sorted(other.glob("*.safetensors*"))
    index = [file for file in files if file.suffix == ".json"]
    with Tensors(one / WEIGHTS) as a, Tensors(index[0] if index else files[0]) as b:
        assert a.shapes() == b.shapes()
        for key in a.layout:
            x, y = a.get_tensor(key), b.get_tensor(key)
            size = torch.maximum(x.abs(), y.abs()).clamp(min=1e-3)
            ulp = torch.exp2(torch.floor(torch.log2(size)) - 23)
            worst = max(worst, float(((x - y).abs() / ulp).max()))
    return worst


def table(runs: dict[str, list[dict[str, float]]]) -> tuple[str, dict[str, Any]]:
    """Markdown, and the ratios to ours: median and [lowest, highest] over the paired repeats."""
    lines = [
        "| way | peak (VmHWM) | own (RssAnon) | mapped files (RssFile) | wall time | wall / ours | CPU time |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, Any] = {}
    for way, repeats in runs.items():
        middle = {name: statistics.median(run[name] for run in repeats) for name in repeats[0]}
        ratios[way] = {}
        for name in ("wall", "cpu", "VmHWM", "RssAnon"):
            quotients = sorted(run[name] / ours[name] for run, ours in zip(repeats, runs["ours"], strict=True))
            ratios[way][name] = {"median": round(statistics.median(quotients), 3), "low": round(quotients[0], 3),
                                 "high": round(quotients[-1], 3)}  # fmt: skip
        wall = ratios[way]["wall"]
        memory = " | ".join(f"{middle[name] / 1e9:.2f} GB" for name in ("VmHWM", "RssAnon", "RssFile"))
        lines.append(
            f"| {way} | {memory} | {middle['wall']:.1f} s | {wall['median']:.2f} [{wall['low']:.2f},"
            f" {wall['high']:.2f}] | {middle['cpu']:.1f} s |"
        )
    return "\n".join(lines), ratios


def main() -> None:
    """Make the inputs, measure, print the table, write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and outputs; 7 x the model's size")
    parser.add_argument("--scale", type=float, default=1.0, help="of the channels: 1 is SD 1.x, 860 M parameters")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.1, 0.2, 0.5], help="one an expert")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mergekit", help="the command mergekit-pytorch, of an environment of its own")
    parser.add_argument("--out", type=Path, help="JSON of the ratios; the table beside it as Markdown")
    parser.add_argument("--inputs-only", action="store_true", help="make the inputs, measure nothing")
    parser.add_argument("--way", choices=("in_memory", "read_and_write"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folders = input_folders(args.work, len(args.weights))
    out = args.work / "out"
    if args.way:
        globals()[args.way](folders, args.weights, out)
        return
    make_inputs(folders, args.scale)
    if args.inputs_only:
        return
    ways = commands(folders, args.weights, out, args.mergekit)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    kept, ulps = args.work / "kept", None
    for folder in (kept, out):
        shutil.rmtree(folder, ignore_errors=True)
    for repeat in range(args.repeats):
        for way in (list(ways), list(reversed(ways)))[repeat % 2]:
            runs[way].append(measure(ways[way], folders))
            print(f"{way}: " + ", ".join(f"{k} {v:.4g}" for k, v in runs[way][-1].items()), flush=True)
            if repeat == 0 and way == "ours":
                out.rename(kept)
            elif repeat == 0 and way == "mergekit":
                ulps = largest_difference(kept, out)
                print(f"mergekit: differs from ours by at most {ulps:.2f} units in the last place", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    text, ratios = table(runs)
    print(text)
    if args.out:
        result = {"parameters": parameters(folders[0]), "experts": len(args.weights), "dtype": "float32",
                  "repeats": args.repeats, "largest_difference_to_mergekit_ulp": ulps and round(ulps, 2),
                  "ratios_to_ours": ratios}  # fmt: skip
        args.out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
        args.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
