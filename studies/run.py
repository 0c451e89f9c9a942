"""Run a study: queue its points as DVC experiments, collect each as it ends, draw its tables and pictures.

A study is a file studies/NAME.yaml: points (Hydra overrides), training seeds, and the models that are measured; it is
reported as its `report` says. `beside` names models of another study of the same seeds that stand in its tables, and
`called` gives its own models other names there. Its rows go to reports/NAME.csv, one for each point, seed and model. A
point whose row is there is not run again; it is known by the hash of its params, but for the sections that its stages
do not read (`unused`). All points of the first seed come first. After a change of code, --again forgets all rows.
Interrupt at any time: what has ended is kept, and the next call goes on.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dvc.api
import pandas as pd
import yaml

from conf.compose import compose_params
from deme_core.command_line import command_line
from deme_core.dag import AWAY, FURTHER, SELF
from deme_core.errors import InputError
from deme_core.launching.settings import FILE
from deme_core.progress import progress
from deme_core.report.studies import curve_of, write_report
from deme_core.stage import run
from deme_core.tensors import atomic_file

REPORTS, STUDIES = Path("reports"), Path(__file__).parent
NO_FIGURES = "analyses=[]"  # no row has a number of them
POLL = 60  # seconds between two looks at the queue, each of which costs a few seconds of a core


def plan(study: dict[str, Any], name: str) -> pd.DataFrame:
    """A row for each point and seed: what places it in the report, `seed`, `overrides`, the `experiment` it needs."""
    rows = []
    for seed in study["seeds"]:
        for point in study["points"]:
            overrides = [*study["common"], *point["overrides"], f"seed={seed}"]
            params = yaml.safe_load(compose_params(overrides))
            # dag and inputs follow from the others, and from what lies on this machine; the section of a direction
            # that is not asked for says nothing, nor does a CLIP model of the search that is the one that measures. No
            # figure changes a number.
            unused = [
                *study["unused"],
                "dag",
                "inputs",
                "analyses",
                "analyse",
                *(FURTHER.keys() - set(params["directions"])),
                *(["search_clip_score"] if params["search_clip_score"] == params["clip_score"] else []),
            ]
            used = {name: value for name, value in params.items() if name not in unused}
            key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:10]
            rows.append(point | {"seed": seed, "overrides": overrides, "experiment": f"{name}-{key}"})
    return pd.DataFrame(rows)


def queue(names: dict[str, list[str]], targets: list[str], jobs: int) -> None:
    """Queue what is not queued yet; the workers begin as soon as there is one task for each."""
    states = status()
    for k, (name, overrides) in enumerate(names.items()):
        if k == jobs:
            start(jobs)
        if states.get(name) in ("Queued", "Running", "Success"):
            continue
        if name in states:
            command("queue", "remove", name)
        settings = [word for override in [*overrides, NO_FIGURES] for word in ("-S", override)]
        # An experiment runs in a copy of the repository, which lacks what git ignores.
        places = ["--copy-paths", str(FILE)] if FILE.is_file() else []
        command("exp", "run", "--queue", "--name", name, *places, *settings, *targets)
    start(jobs)


def start(jobs: int) -> None:
    """See to it that there are `jobs` workers, one thread each: two cores share two trainings."""
    command("queue", "start", "--jobs", str(jobs))


def forget(names: list[str]) -> None:
    """Take experiments out of DVC and of its queue."""
    if queued := [name for name in status() if name in names]:
        command("queue", "remove", *queued)
    if kept := [name for name in command("exp", "list", "--name-only").split() if name in names]:
        command("exp", "remove", *kept)


def status() -> dict[str, str]:
    """Name -> state of every experiment in DVC's queue."""
    states = ("Queued", "Running", "Success", "Failed", "Killed", "Preparing")
    words = [line.split() for line in command("queue", "status").splitlines()]
    return {line[1]: line[-1] for line in words if len(line) > 2 and line[-1] in states}


def command(*words: str) -> str:
    """The output of a dvc command, one OpenMP thread in whatever it starts."""
    # Files, not pipes: the workers that `queue start` leaves behind would keep a pipe open to their end.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", "dvc", *words], env=environment, stdout=out, stderr=errors)
        out.seek(0)
        errors.seek(0)
        if done.returncode:
            reason = (errors.read().strip() or "no message").splitlines()[-1]
            raise InputError(f"dvc {' '.join(words[:2])} failed: {reason}")
        return out.read()


def collect(name: str, overrides: list[str], models: list[str] | None) -> pd.DataFrame:
    """The rows of a finished experiment: its metrics and block scores, a row a model."""
    params = yaml.safe_load(dvc.api.read("params.yaml", rev=name))
    paths, searched = params["dag"]["models"], ["merged", *params["dag"]["searches"]]
    rows = []
    for model in models or paths:
        metrics = json.loads(dvc.api.read(f"measures/{model}.json", rev=name))
        with dvc.api.open(f"scores/{paths[model]}.csv", rev=name) as file:
            scores = pd.read_csv(file, index_col="block")
        blocks = {f"{key}_block{k}": scores.at[k, key] for key in scores for k in scores.index}
        row = {"experiment": name, "overrides": " ".join(overrides), "seed": params["seed"], "model": model}
        row |= {"N": params["N"], "iterations": params["finetune_range"]["iterations"]}
        row |= {"own_trainings": params["own_samples"]["ranges"]} if SELF in params["directions"] else {}
        if model in searched:
            result = json.loads(dvc.api.read(f"search/n{params['N']}/{model}/result.json", rev=name))
            row["weights"] = " ".join(f"{w:.4g}" for w in result["weights"])
        if model == AWAY:
            row["weights"] = f"{-params['away']['w']:.4g}"
        rows.append(row | metrics | blocks)
    return pd.DataFrame(rows)


def draw(name: str, study: dict[str, Any], points: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write the report: each curve, or all, over the seeds whose points are all measured; an interval needs two."""
    measured, curve = points["experiment"].isin(rows["experiment"]), curve_of(points)
    whole = points[measured.groupby([curve, points["seed"]]).transform("all")]
    whole = whole[whole["seed"].groupby(curve).transform("nunique") > 1]
    rows = rows.replace({"model": study.get("called", {})})
    rows = pd.concat([rows, *borrowed(study.get("beside", {}), whole)], ignore_index=True)
    rows = rows.fillna({"own_trainings": 1})  # of rows that are older than a choice
    planned = points.groupby(curve)["seed"].nunique()
    if len(whole):
        write_report(name, study["report"], whole, rows[rows["experiment"].isin(whole["experiment"])], REPORTS, planned)


def borrowed(beside: dict[str, dict[str, str]], points: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of other studies, study -> model -> its name here, as if this study's experiments had measured them.

    A model that lacks one of the seeds is not lent: all models of a page have the same trainings.
    """
    experiment, found = points.set_index("seed")["experiment"], []
    for other, models in beside.items():
        if (file := REPORTS / f"{other}.csv").is_file():
            rows = pd.read_csv(file)
            rows = rows[rows["model"].isin(models) & rows["seed"].isin(experiment.index)]
            rows = rows[rows.groupby("model")["seed"].transform("nunique") == experiment.index.nunique()]
            found.append(rows.assign(model=rows["model"].map(models), experiment=rows["seed"].map(experiment)))
    return found


def main() -> None:
    parser = command_line("python -m studies.run", __doc__, "sensitivity", "table1 --again")
    parser.add_argument("study", choices=sorted(file.stem for file in STUDIES.glob("*.yaml")))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="experiments at a time, one thread each")
    parser.add_argument("--again", action="store_true", help="forget what was measured, and measure it again")
    args = parser.parse_args()
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: at least one experiment runs at a time")
    study = yaml.safe_load((STUDIES / f"{args.study}.yaml").read_text(encoding="utf-8"))
    points, file = plan(study, args.study), REPORTS / f"{args.study}.csv"
    names = dict(zip(points["experiment"], points["overrides"], strict=True))
    if args.again:
        file.unlink(missing_ok=True)
        forget(list(names))
    rows = pd.read_csv(file) if file.is_file() else None
    measured = set() if rows is None else set(rows["experiment"])
    todo = {name: overrides for name, overrides in names.items() if name not in measured}
    bar = progress(total=len(names), initial=len(names) - len(todo), desc=args.study, unit="run")
    absent = 0  # looks in a row at which a task was missing
    if todo:
        queue(todo, study["targets"], args.jobs)
    while todo:
        states = status()
        for name in [name for name in todo if states.get(name) == "Success"]:
            rows = pd.concat([rows, collect(name, todo.pop(name), study["models"])], ignore_index=True)
            with atomic_file(file) as whole:
                whole.write(rows.to_csv(index=False).encode())
            draw(args.study, study, points, rows)
            bar.update()
        running = [task_state for task_state in states.values() if task_state == "Running"]
        if "Queued" in states.values() and len(running) < args.jobs:
            start(args.jobs)  # a worker has ended: that of DVC 3 does when it meets a task that is just being queued
        absent = absent + 1 if todo.keys() - states.keys() else 0  # a task is in no list while the queue moves it
        if absent > 10:
            raise InputError(f"{min(todo.keys() - states.keys())} is no longer in DVC's queue; run this command again")
        if failed := [name for name in todo if states.get(name) in ("Failed", "Killed")]:
            raise InputError(f"{failed[0]} has failed; `dvc queue logs {failed[0]}` says why. The rest goes on")
        time.sleep(POLL if todo else 0)
    bar.close()
    draw(args.study, study, points, rows)


if __name__ == "__main__":
    run(main)
