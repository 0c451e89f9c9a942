"""The results of the run on one page: table with protocol and verdicts, and the pictures."""

import argparse
import json
from pathlib import Path

import pandas as pd

from deme_core.errors import InputError
from deme_core.merging.task_vectors import cosines, vector_files
from deme_core.params import read
from deme_core.report import figures
from deme_core.report.tables import MODELS, needed, page, read_metrics, results
from deme_core.stage import run, run_params
from deme_core.tensors import read_tensors

PICTURES = {
    "samples.png": "Samples of each model from the same noise.",
    "loss_curves.png": "Losses of finetuning, each point the mean since the last; one line a timestep range.",
    "loss_matrix.png": "Held-out denoising loss of each model on each range; outlined: the expert's own range.",
    "search.png": "Scores of the merge search by each weight (diagonal) and pair of weights; top right: its finalists.",
    "cosines.png": "Cosine similarity of the task vectors: near 0, merging one disturbs the others little.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the outputs of the stages evaluate")
    parser.add_argument("--samples-pretrained", type=Path, required=True, help="output of the stage sample@pretrained")
    parser.add_argument("--samples", type=Path, required=True, help="folder of the outputs of the other stages sample")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the loss curves, a range each")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of the task vectors")
    parser.add_argument("--loss-matrix", type=Path, required=True, help="output of the stage loss_matrix")
    parser.add_argument("--search", type=Path, required=True, help="output of the stage merge_search")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.md, results.csv and the pictures")
    args = parser.parse_args()
    table = results(read_metrics(args.metrics))
    losses = pd.read_csv(needed(args.loss_matrix, "loss_matrix"), index_col="model")
    trials = pd.read_csv(needed(args.search / "trials.csv", "merge_search"))
    result = json.loads(needed(args.search / "result.json", "merge_search").read_text())
    counts = [len(list(args.curves.glob("*.csv"))), len(losses.columns), len(result["weights"])]
    if len(set(counts)) > 1:
        raise InputError(f"curves, loss matrix and search hold {counts} ranges, from different runs; run `dvc repro`")
    ranges = dict(enumerate(losses.columns, 1))
    curves = {r: pd.read_csv(needed(args.curves / f"{i}.csv", f"finetune_range@{i}")) for i, r in ranges.items()}
    similarity = cosines([read_tensors(file) for file in vector_files(args.vectors, len(ranges))])
    folders = {m: args.samples_pretrained if m == "pretrained" else args.samples / m for m in MODELS}
    sheets = {MODELS[m]: needed(folder / "preview.png", f"sample@{m}") for m, folder in folders.items()}
    figures.samples_side_by_side(args.out / "samples.png", sheets)
    figures.loss_curves(args.out / "loss_curves.png", curves)
    figures.loss_matrix_heatmap(args.out / "loss_matrix.png", losses, MODELS)
    figures.search_heatmap(args.out / "search.png", trials, result)
    figures.cosine_matrix(args.out / "cosines.png", similarity, list(ranges.values()))
    table.to_csv(args.out / "results.csv")
    title = f"{run_params(read()).name}: DeMe with N = {len(ranges)}"
    (args.out / "results.md").write_text(page(title, table, trials, result, PICTURES), encoding="utf-8")


if __name__ == "__main__":
    run(main)
