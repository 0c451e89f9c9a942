"""What running stages side by side costs, and what DVC costs as a run grows: `python benchmarks/scale.py --help`.

Makespans are of a DAG whose stages sleep, so that a machine of two cores shows what eight GPUs would do: base, then N
experts with a vector each, a search, and the merged model; half as many baselines beside them. Sizes and no-ops are of
the same DAG whose stages write a file and end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from deme_core.stage import run

SHORT = 0.1  # of a training's seconds; how long all stages that train nothing sleep


def dag(N: int, seconds: float) -> dict[str, tuple[list[str], float]]:
    """Stage -> what it needs, and how long it sleeps."""
    short = SHORT * seconds
    experts = {f"expert{i}": (["base"], seconds) for i in range(1, N + 1)}
    vectors = {f"vector{i}": ([f"expert{i}"], short) for i in range(1, N + 1)}
    baselines = {f"baseline{i}": (["base"], seconds) for i in range(1, N // 2 + 1)}
    last = {"search": ([*vectors], short), "merged": (["search"], short), "report": (["merged", *baselines], short)}
    return {"base": ([], short)} | experts | vectors | baselines | last


def ideal(stages: dict[str, tuple[list[str], float]], jobs: int) -> float:
    """No run is shorter: neither than its longest path, nor than its work divided by the jobs."""
    ends = dict[str, float]()
    for name, (needs, seconds) in stages.items():
        ends[name] = seconds + max((ends[need] for need in needs), default=0)
    return max(max(ends.values()), sum(seconds for _, seconds in stages.values()) / jobs)


def write(folder: Path, stages: dict[str, tuple[list[str], float]]) -> None:
    """A git and DVC repository of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = {
        name: {"cmd": f"sleep {seconds}; echo {name} > {name}", "outs": [name], **({"deps": needs} if needs else {})}
        for name, (needs, seconds) in stages.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": made}, sort_keys=False))
    (folder / ".gitignore").write_text("".join(f"/{name}\n" for name in made))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    call(folder, "dvc", "init", "-q")


def call(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds by the clock, and of the cores, of a command of Python."""
    keep = {f"DVC_{name}_DIR": str(folder / ".dvc" / "tmp") for name in ("SITE_CACHE", "GLOBAL_CONFIG")}
    start, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL,
        env=os.environ | keep | {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def makespan(folder: Path, N: int, jobs: int, seconds: float) -> dict[str, Any]:
    """One run of everything."""
    stages = dag(N, seconds)
    write(folder, stages)
    wall, cpu = call(folder, "deme_core", "repro", "--jobs", str(jobs))
    least = ideal(stages, jobs)
    row = {"N": N, "jobs": jobs, "stages": len(stages), "ideal_s": least, "took_s": wall, "ratio": least / wall}
    return row | {"cpu_s_a_stage": cpu / len(stages)}


def no_op(folder: Path, N: int) -> dict[str, Any]:
    """What is left of a run that has nothing to do."""
    stages = dag(N, 0)
    write(folder, stages)
    call(folder, "dvc", "repro", "-q")
    again = {name: call(folder, *words) for name, words in NO_OPS.items()}
    size = (folder / "dvc.lock").stat().st_size
    return {"N": N, "stages": len(stages), "dvc_lock_bytes": size} | {
        f"{name}_{kind}": value
        for name, both in again.items()
        for kind, value in zip(("s", "cpu_s"), both, strict=True)
    }


NO_OPS = {"dvc": ("dvc", "repro", "-q"), "deme": ("deme_core", "repro")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the repositories; what lies there goes")
    parser.add_argument("--experts", type=int, nargs="*", default=[1, 4, 16], help="N of the makespans")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=60, help="that a training sleeps")
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 16, 64], help="N of dvc.lock and of no-ops")
    parser.add_argument("--out", type=Path, help="JSON of the rows")
    args = parser.parse_args()
    rows: dict[str, Any] = {"seconds": args.seconds, "makespans": [], "no_ops": []}
    asked = [("makespans", makespan, (N, jobs, args.seconds)) for N in args.experts for jobs in args.jobs]
    asked += [("no_ops", no_op, (N,)) for N in args.sizes]
    for kind, measure, how in asked:
        row = measure(args.work / "scale", *how)
        rows[kind].append(row)
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        if args.out:
            args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
