"""The results of the run on one page: table with protocol and verdicts, and the pictures."""

import argparse
import json
from pathlib import Path

import pandas as pd

from deme_core.dag import DEME
from deme_core.errors import InputError
from deme_core.merging.task_vectors import cosines, vector_files
from deme_core.params import read
from deme_core.report import figures, tables
from deme_core.report.tables import MODELS, needed
from deme_core.stage import run, run_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the outputs of the stages evaluate")
    parser.add_argument("--scores", type=Path, required=True, help="folder of their block scores")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of the stages sample")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the loss curves, a range each")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--loss-matrix", type=Path, required=True, help="output of the stage loss_matrix")
    parser.add_argument("--search", type=Path, required=True, help="output of the stage merge_search")
    parser.add_argument("--calibration", type=Path, required=True, help="output of the stage calibrate")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.md, results.csv and the pictures")
    args = parser.parse_args()
    params = read()
    top, models = run_params(params), params["dag"]["models"]
    metrics, scores = tables.read_metrics(args.metrics, models), tables.read_scores(args.scores, models)
    table = tables.results(metrics, scores, top.N, params["finetune_range"]["iterations"])
    losses = pd.read_csv(needed(args.loss_matrix, "loss_matrix"), index_col="model")
    trials = pd.read_csv(needed(args.search / "trials.csv", "merge_search"))
    result = json.loads(needed(args.search / "result.json", "merge_search").read_text())
    counts = [len(list(args.curves.glob("*.csv"))), len(losses.columns), tables.task_vectors(result)]
    if len(set(counts)) > 1:
        raise InputError(f"curves, loss matrix and search hold {counts} ranges, from different runs; run `dvc repro`")
    ranges = dict(enumerate(losses.columns, 1))
    curves = {r: pd.read_csv(needed(args.curves / f"{i}.csv", f"finetune_range@{i}")) for i, r in ranges.items()}
    similarity = cosines(vector_files(args.vectors))
    sheets = {m: needed(args.samples / models[m] / "preview.png", f"sample@{m}") for m in ("pretrained", *DEME)}
    figures.samples_side_by_side(args.out / "samples.png", {MODELS[m]: sheet for m, sheet in sheets.items()})
    figures.loss_curves(args.out / "loss_curves.png", curves)
    figures.loss_matrix_heatmap(args.out / "loss_matrix.png", losses, MODELS)
    figures.search_trials(args.out / "search.png", trials, result)
    figures.cosine_matrix(args.out / "cosines.png", similarity, list(ranges.values()))
    table.to_csv(args.out / "results.csv")
    text = tables.page(f"{top.name}: DeMe with N = {top.N}", table, trials, result, tables.PICTURES)
    if message := json.loads(needed(args.calibration, "calibrate").read_text())["message"]:
        text = text.replace("\n\n", f"\n\n{message}\n\n", 1)  # under the title
    (args.out / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
