"""The page of a run, and its pictures, from what the stages before it wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deme_core.dag import AWAY, DEME, SELF
from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.merging.task_vectors import cosines, vector_files
from deme_core.metrics.verdict import JudgeParams
from deme_core.report import figures, tables, verdicts
from deme_core.report.console import console
from deme_core.report.tables import needed
from deme_core.report.text import MODELS, model_name
from deme_core.search.result import SearchResult
from deme_core.stage import RunParams
from deme_core.training.gate import GateParams

NOTHING_HELD_OUT = (
    "No image is held out (data.held_out = 0): the held-out losses, and every column of a held-out part, are left out."
)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Where the outputs of the stages lie."""

    metrics: Path
    """Folder of those of `evaluate`; `scores`: of its block scores."""
    scores: Path
    samples: Path
    """Folder of those of `sample`."""
    curves: Path
    """Folder of the loss curves, a range each; `vectors`: of the task vectors."""
    vectors: Path
    loss_matrix: Path
    search: Path
    experts: Path
    """What the gate measured; `own_experts`: of the finetune on own samples, read where there is one."""
    own_experts: Path
    judged: Path
    """Folder of the outputs of `judge`; `real`: the statistics of real images."""
    real: Path
    calibration: Path


def write_run_page(
    files: RunFiles, top: RunParams, models: Mapping[str, str], iterations: int, gate: GateParams, judges: JudgeParams,
    out: Path,
) -> None:  # fmt: skip
    """Write results.md, results.csv, results.txt for the terminal, and the pictures to `out`.

    Args:
        models: every model -> its path below the folders.
        iterations: optimizer steps of one expert.

    Raises:
        InputError: a file is missing, or files are from different runs.
    """
    metrics = tables.read_metrics(files.metrics, models)
    scores = {m: dict(of_model) for m, of_model in tables.read_scores(files.scores, models).items()}
    experts = pd.read_csv(needed(files.experts, "gate"))
    own_experts = pd.read_csv(needed(files.own_experts, "gate_own")) if SELF in top.directions else experts[:0]
    table = tables.results(metrics, top.N, iterations, len(own_experts))
    losses = pd.read_csv(needed(files.loss_matrix, "loss_matrix"), index_col="model")
    trials = pd.read_csv(needed(files.search / "trials.csv", "merge_search"))
    result = SearchResult.read(needed(files.search / "result.json", "merge_search"))
    counts = [len(list(files.curves.glob("*.csv"))), len(losses.columns), result.N]
    if len(set(counts)) > 1:
        raise InputError(f"curves, loss matrix and search hold {counts} ranges, from different runs; run `dvc repro`")
    ranges = dict(enumerate(losses.columns, 1))
    curves = {r: pd.read_csv(needed(files.curves / f"{i}.csv", f"finetune_range@{i}")) for i, r in ranges.items()}
    similarity = cosines(vector_files(files.vectors))
    pictured = [model for model in ("pretrained", *DEME, AWAY) if model in models]
    sheets = {model_name(m): needed(files.samples / models[m] / "preview.png", f"sample@{m}") for m in pictured}
    figures.samples_side_by_side(out / "samples.png", sheets)
    figures.loss_curves(out / "loss_curves.png", curves)
    pictures, held_out = dict(tables.PICTURES), bool(losses.notna().all(axis=None))
    if held_out:
        figures.loss_matrix_heatmap(out / "loss_matrix.png", losses, MODELS)
    else:
        del pictures["loss_matrix.png"]
    figures.search_trials(out / "search.png", trials, result)
    figures.cosine_matrix(out / "cosines.png", similarity, list(ranges.values()))
    real = read_json(files.real)
    statistics = {"real images": real["train"]} | {
        model_name(m): read_json(needed(files.judged / f"{path}.json", f"judge@{m}"))["statistics"]
        for m, path in models.items()
    }
    figures.image_statistics(out / "statistics.png", statistics)
    table.to_csv(out / "results.csv")
    text = tables.page(
        f"{top.name}: DeMe with N = {top.N}", table, trials, result, pictures,
        verdicts.lead(table, scores, judges.group, real["floor"], real["floor_images"]),
        [*verdicts.experts_section(experts, own_experts, gate.must_win), *verdicts.statistics_section(statistics)]
        + [NOTHING_HELD_OUT] * (not held_out),
    )  # fmt: skip
    message = json.loads(needed(files.calibration, "calibrate").read_text(encoding="utf-8"))["message"]
    if message:
        text = text.replace("\n\n", f"\n\n{message}\n\n", 1)  # under the title
    (out / "results.md").write_text(text, encoding="utf-8")
    (out / "results.txt").write_text(console(table, scores, judges.group, message), encoding="utf-8")
