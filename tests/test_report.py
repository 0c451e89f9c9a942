"""The report: hand-worked tables and verdicts, figures with the same bytes every time, and the whole stage."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import search_result
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from PIL import Image

from deme_core.dag import BASELINES, DEME, OWN, dag
from deme_core.errors import InputError
from deme_core.metrics.intervals import uncovered
from deme_core.report import figures
from deme_core.report.tables import (
    PICTURES,
    first_changes,
    page,
    read_metrics,
    read_scores,
    results,
    search_scores,
    training_steps,
    verdict,
    weight_names,
)
from deme_core.report.text import MODELS, model_name, number
from deme_core.search.result import SearchResult
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.trials import TrialLog
from deme_core.tensors import write_tensors
from deme_core.training.gate import NOT_MEASURED

ROOT = Path(__file__).parents[1]
RANGES = {1: ["[0, 1000)"], 2: ["[0, 500)", "[500, 1000)"], 4: [f"[{t}, {t + 250})" for t in range(0, 1000, 250)]}


def metrics(change: tuple[float, float, float] = (0, 0, 0), heldout: bool = True, **other: Any) -> dict[str, Any]:
    """Flat metrics; `change` to the training part is (value, low, high), that to the held-out part its negative."""
    out: dict[str, Any] = {"images": 1200, "seed_block": "EVALUATION", "seed_blocks": 6, "reference_images": 1437}
    out |= {"device": "cpu", "judges": "group-0123"}
    for part, sign in {"train": 1, "heldout": -1}.items() if heldout else {"train": 1}.items():
        value, *ends = (sign * x for x in change)
        out |= {f"frechet_{part}": 0.8, f"frechet_{part}_corrected": 0.5}
        out |= {f"frechet_{part}_low": 0.25, f"frechet_{part}_high": 0.75, f"frechet_{part}_change": value}
        out |= {f"frechet_{part}_change_low": min(ends), f"frechet_{part}_change_high": max(ends)}
    out |= {"kid_train": 0.004, "kid_train_low": 0.003, "kid_train_high": 0.005, "copy_rate": 0.25}
    out |= {"copy_rate_real": 0.405} if heldout else {}
    sampler = {"sampler_kind": "ddim", "sampler_steps": 20, "sampler_spacing": "uniform", "sampler_dtype": "float32"}
    return out | sampler | {"extractor": "x-0123", "parameters": 634273, "macs_per_step": 15003648} | other


def all_metrics(**other: Any) -> dict[str, dict[str, Any]]:
    """Of the pretrained model and DeMe's own."""
    changes = [(0, 0, 0), (-0.2, -0.3, -0.1), (0.4, 0.2, 0.6), (-0.1, -0.3, 0.1)]
    return {model: metrics(change, **other) for model, change in zip(("pretrained", *DEME), changes, strict=True)}


def table_of(**other: Any) -> pd.DataFrame:
    """The results of a run without baselines: N = 2, 800 steps an expert."""
    return results(all_metrics(**other), 2, 800)


def test_the_full_table_shows_how_well_a_classifier_tells_samples_from_real_images(tmp_path: Path) -> None:
    told = {"c2st": 0.6123, "c2st_low": 0.6, "c2st_high": 0.63, "c2st_real": 0.5049}
    trials, result = searched(tmp_path, 2)
    text = page("toy", table_of(**told), trials, result, {})
    assert "| C2ST: AUC, all judges<br>± 95 % |" in text
    assert "| 0.612 ± 0.015<br>(real 0.505) |" in text
    assert "C2ST: area under the ROC curve" in text
    del told["c2st_real"]
    assert "| 0.612 ± 0.015 |" in page("toy", table_of(**told), trials, result, {})
    assert "C2ST" not in page("toy", table_of(), trials, result, {})


def searched(directory: Path, N: int, method: str = "grid") -> tuple[pd.DataFrame, SearchResult]:
    """Trials and result of a real search on a made-up score, whose luck differs between rounds and blocks."""
    params = SearchParams(
        method=method, objective="frechet", budget=4100, images=50, bounds=(-0.5, 1.5), fixed=None,
        values=(0, 0.25, 1), scales=(), away=(), per_block=False, towards_shared=0.001,
        seed=0, finalists=3, final_images=400, final_blocks=4,
    )  # fmt: skip
    log = TrialLog(directory / "trials.csv", N)
    best = np.linspace(0.2, 0.6, N)

    def score(w: Any, block: int, first: int, images: int) -> float:
        return 1 + float(np.sum((w - best) ** 2)) + (block + first) / 1000 * (1 + sum(w))

    loss = SimpleNamespace(value=lambda w, *_: 0.2 * score(w, 0, 0, 0))
    result = search(score, loss, N, params, log, 20)  # type: ignore[arg-type]
    log.export(directory / "trials.csv")
    return pd.read_csv(directory / "trials.csv"), result


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.3, 0.1, "no diff"), (-0.3, 0, "no diff"), (0, 0, "no diff")],
)
def test_verdict(low, high, expected):
    assert verdict(low, high).startswith(expected)


def test_results_by_hand(tmp_path):
    table = table_of()
    assert list(table.index) == ["pretrained", *DEME]
    assert list(table["name"]) == [MODELS[model] for model in table.index]
    assert list(table["steps"]) == ["—", "2 × 800", "2 × 800", "2 × 800"]
    assert not [column for column in table if "baseline" in column]
    np.testing.assert_allclose(table["frechet_train_change_percent"], [0, -25, 50, -12.5])
    shown = ["base", "better than pretrained", "worse than pretrained", "no difference shown"]
    assert list(table["frechet_train_verdict"]) == shown
    assert list(table["frechet_heldout_verdict"]) == [shown[0], shown[2], shown[1], shown[3]]
    table.to_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv", index_col="model"), table, check_dtype=False)


def test_page_by_hand(tmp_path):
    trials, result = searched(tmp_path, 2)
    text = page("toy", table_of(), trials, result, {"samples.png": "A caption."})
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    found = [sum(row.startswith(f"| {name} |") for row in rows) for name in MODELS.values()]
    assert found == [1, 1, 1, 1] + [0] * (len(MODELS) - 4)
    ensemble = next(row for row in rows if "ensemble" in row).strip("| ").split(" | ")
    assert ensemble[1:3] == ["0.8000<br>0.5000 [0.2500, 0.7500]", "−0.2000 [−0.3000, −0.1000]<br>(−25.0 %)"]
    assert ensemble[4:] == [
        "+0.2000 [+0.1000, +0.3000]<br>(+25.0 %)", "4.000 ± 1.000", "25.0 %<br>(real 40.5 %)", "2 × 800", "634,273",
        "15,003,648",
    ]  # fmt: skip
    assert "in 10⁻³" in rows[0]
    protocol = next(line for line in lines if line.startswith("Protocol"))
    for fact in ("1,200 images", "EVALUATION", "6 blocks of 200", "ddim, 20 steps, uniform", "`x-0123`", "1,437"):
        assert fact in protocol
    better, worse = "better than pretrained on the training part", "worse than pretrained on the held-out part"
    assert f"- {MODELS['ensemble']}: {better}; {worse}" in lines
    assert lines[-3:] == ["![samples](samples.png)", "", "A caption."]
    assert "kept w = 0" not in text
    assert "baseline" not in text
    assert f"## Merge search: grid, {result.trials} trials" in lines
    start = lines.index("| " + " | ".join([
        "weights", "w", "change, first round<br>50 images a trial", "change, fresh seeds<br>4 × 100 images", "gap",
        "score, fresh",
    ]) + " |")  # fmt: skip
    assert lines[start + 2 : start + 5] == [f"| {' | '.join(row)} |" for row in search_scores(trials, result)]
    assert "objective `frechet`, distances to the training part" in text
    assert f"Images sampled in all: {50 * result.trials + 400 * 4:,}." in text  # w = 0, w = 1/N and two more
    assert "kept w = 0" in page("toy", table_of(), trials, replace(result, weights=[0.0, 0.0]), {})


def test_without_held_out_part_and_with_a_large_kid(tmp_path):
    table = table_of(heldout=False, kid_train=0.5, kid_train_low=0.25, kid_train_high=0.75)
    text = page("toy", table, *searched(tmp_path, 1), {})
    assert "held-out part" not in text and "10⁻³" not in text and "| 0.5000 ± 0.2500 | 25.0 % |" in text


def test_without_corrected_values_the_page_says_why(tmp_path):
    none = {f"frechet_{part}_{end}": None for part in ("train", "heldout") for end in ("corrected", "low", "high")}
    for model, own in all_metrics(**none, feature_count=512).items():
        (tmp_path / f"{model}.json").write_text(json.dumps(own))
    table = results(read_metrics(tmp_path, all_metrics()), 2, 800)
    text = page("toy", table, *searched(tmp_path / "search", 2), {})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "Fréchet distance, training part<br>plain |" in rows[0] and "jackknife" not in text
    ensemble = next(row for row in rows if "ensemble" in row).strip("| ").split(" | ")
    assert ensemble[1:3] == ["0.8000", "−0.2000 [−0.3000, −0.1000]<br>(−25.0 %)"]
    assert text.count(uncovered(1200, 512, 6)) == 1
    assert "nan" not in text.lower() and "none" not in text.lower().replace("none is widened", "")
    table.to_csv(tmp_path / "results.csv")
    read = pd.read_csv(tmp_path / "results.csv", index_col="model")
    assert read[list(none)].isna().all(axis=None) and read["frechet_train_change"].notna().all()


ROWS = [  # round, first, images, w1, w2, score
    ("search", 0, 10, 0.0, 0.0, 5.0), ("search", 0, 10, 0.5, 0.5, 4.0), ("search", 0, 10, 0.25, 0.0, 3.5),
    ("search", 10, 10, 0.5, 0.5, 4.5), ("search", 10, 10, 0.0, 0.0, 7.0), ("search", 10, 20, 0.5, 0.5, 0.0),
    ("search", 20, 10, 0.5, 0.5, 0.0), ("loss", 0, 10, 0.5, 0.5, 0.1), ("loss", 0, 10, 0.0, 0.0, 0.25),
    ("confirm", 0, 20, 0.0, 0.0, 2.0), ("confirm", 0, 20, 0.25, 0.0, 1.5), ("confirm", 0, 20, 0.5, 0.5, 1.75),
]  # fmt: skip
TRIALS = pd.DataFrame(ROWS, columns=["round", "first", "images", "w1", "w2", "score"])


def test_changes_of_the_first_round_by_hand():
    """Each against w = 0 on the same seeds: (10, 20 images) and (20, 10 images) had no such trial."""
    first = first_changes(TRIALS, "search")
    assert list(zip(first["w1"], first["change"], strict=True)) == [
        (0, 0),
        (0.5, -1),
        (0.25, -1.5),
        (0.5, -2.5),
        (0, 0),
    ]
    assert list(first["zero"]) == [5, 5, 5, 7, 7]
    assert list(first_changes(TRIALS, "loss")["change"]) == [-0.15, 0]
    assert list(first_changes(TRIALS, "confirm")["change"]) == [0, -0.5, -0.25]
    assert len(first_changes(TRIALS[TRIALS["round"] == "loss"], "search")) == 0
    assert weight_names(3) == ["w1", "w2", "w3"]


@pytest.mark.parametrize(
    ("trials", "change", "shown", "uniform"),
    [
        (TRIALS, -1.5, ["−1.5000", "−0.5000", "+1.0000"], ["−1.7500", "−0.2500", "+1.5000"]),  # of −1 and −2.5
        (TRIALS[TRIALS["round"] != "search"], None, ["—", "−0.5000", "—"], ["—", "−0.2500", "—"]),  # on the loss
    ],
)
def test_search_scores_by_hand(trials, change, shown, uniform):
    assert search_scores(trials, search_result([0.25, 0.0], search_change=change)) == [
        ["searched", "0.25, 0", *shown, "1.5000"],
        ["zero: pretrained", "0, 0", "+0.0000", "+0.0000", "+0.0000", "2.0000"],
        ["uniform: 1/N", "0.5, 0.5", *uniform, "1.7500"],
    ]


def test_search_scores_of_blocks_by_hand():
    """Two blocks, one task vector each: uniform weights are 1."""
    each = search_result([0.25, 0.0], ["down_blocks.0", "rest"], search_change=None)
    found = search_scores(TRIALS[TRIALS["round"] != "search"], each)
    assert [row[:2] for row in found] == [
        ["searched", "down_blocks.0: 0.25; rest: 0"], ["zero: pretrained", "0"], ["uniform: 1/N", "1"],
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["grid", "surrogate", "loss"])
def test_search_scores_are_those_of_the_search(tmp_path, method):
    trials, result = searched(tmp_path, 3, method)  # 1/3 goes through a CSV
    winner, zero, uniform = search_scores(trials, result)
    told = [result.search_change, result.confirm_change, result.gap]
    assert winner[2:5] == ["—" if value is None else number(value, 4, "+") for value in told]
    scores = [result.confirm_score, result.confirm_score_pretrained, result.confirm_score_uniform]
    assert [winner[5], zero[5], uniform[5]] == [number(score, 4) for score in scores]
    assert (uniform[2] == "—") == (method == "loss")


def test_the_page_of_a_search_on_the_loss_says_that_nothing_was_sampled(tmp_path):
    text = page("toy", table_of(), *searched(tmp_path, 2, "loss"), {})
    assert "change, first round<br>none sampled" in text
    assert "| searched | 0.2, 0.6 | — | " in text


def test_mistakes_are_named(tmp_path):
    for model, values in all_metrics().items():
        (tmp_path / f"{model}.json").write_text(json.dumps(values))
    (tmp_path / "full_range.json").write_text("left over from a run with baselines")
    assert read_metrics(tmp_path, all_metrics()) == all_metrics()
    (tmp_path / "merged_uniform.json").unlink()
    with pytest.raises(InputError, match=r"merged_uniform\.json: no such file; `dvc repro evaluate@merged_uniform`"):
        read_metrics(tmp_path, all_metrics())
    with pytest.raises(InputError, match=r"merged was measured with sampler_steps = 50, pretrained with 20"):
        results(all_metrics() | {"merged": metrics(sampler_steps=50)}, 2, 800)
    with pytest.raises(InputError, match=r"only one of ensemble and pretrained has 'kid_heldout'"):
        results(all_metrics() | {"ensemble": metrics(kid_heldout=1)}, 2, 800)
    with pytest.raises(InputError, match=r"min_snr was measured with images = 60, pretrained with 1200"):
        results(all_metrics() | {"min_snr": metrics(images=60)}, 2, 800)


def test_block_scores_are_read_from_the_path_of_each_model(tmp_path):
    models = {"pretrained": "pretrained", "full_range+scale": "n2/full_range+scale"}
    for k, path in enumerate(models.values()):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pd.DataFrame({"frechet_train": [k, 2.5]}).to_csv(tmp_path / f"{path}.csv", index_label="block")
    scores = read_scores(tmp_path, models)
    assert {model: list(own["frechet_train"]) for model, own in scores.items()} == {
        "pretrained": [0, 2.5],
        "full_range+scale": [1, 2.5],
    }
    (tmp_path / "n2/full_range+scale.csv").unlink()
    with pytest.raises(InputError, match=r"scale\.csv: no such file; `dvc repro evaluate@full_range\+scale` writes it"):
        read_scores(tmp_path, models)


# Baselines


def test_every_model_that_a_run_can_measure_has_its_name():
    names = [model_name(model) for model in dag(4, BASELINES)["models"]]
    assert len(set(names)) == len(names) == len(OWN) + 2 * len(BASELINES) - 1 + 2
    assert model_name("min_snr") == "Min-SNR-γ"
    assert model_name("min_snr+scale") == "Min-SNR-γ, searched scale"


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        ("pretrained", "—"), ("ensemble", "4 × 1,600"), ("merged_uniform", "4 × 1,600"), ("merged", "4 × 1,600"),
        ("merged_nonnegative", "4 × 1,600"),
        ("full_range", "6,400"), ("full_range+scale", "6,400"), ("snr_plus_one", "6,400"), ("truncated_snr", "6,400"),
        ("min_snr+scale", "6,400"), ("loss_equivalent", "6,400"), ("soup_full_range", "4 × 1,600"),
        ("soup_full_range+scale", "4 × 1,600"), ("soup_greedy", "4 × 1,600"),
    ],
)  # fmt: skip
def test_training_steps_by_hand(model, steps):
    assert training_steps(model, 4, 1600, 0) == steps


def test_training_steps_on_own_samples_by_hand():
    assert [training_steps("neon", 4, 1600, own) for own in (1, 2)] == ["1,600", "2 × 1,600"]


def test_page_with_baselines_by_hand(tmp_path):
    models = all_metrics() | {m: metrics() for m in ("full_range", "full_range+scale", "soup_greedy")}
    text = page("toy", results(models, 2, 800), *searched(tmp_path, 2), {})
    lines = text.splitlines()
    rows = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ") for row in lines if row.startswith("|")}
    header = rows["model"]
    assert rows["full-range finetune, searched scale"][header.index("training steps")] == "1,600"
    assert rows[MODELS["soup_greedy"]][header.index("training steps")] == "2 × 800"
    assert {len(row) for row in rows.values() if row[0] in map(model_name, models)} == {len(header)}
    none = "no difference shown on the training part; no difference shown on the held-out part"
    assert f"- {MODELS['soup_greedy']}: {none}" in lines


@pytest.mark.parametrize(
    ("N", "method"), [(1, "grid"), (2, "grid"), (4, "surrogate"), (1, "loss"), (2, "loss"), (4, "loss")]
)
def test_the_picture_of_a_search_shows_every_trial_and_finalist(tmp_path, monkeypatch, N, method):
    dots, titles, ticks = [], [], []
    draw, title, label = Axes.scatter, SubFigure.suptitle, Axes.set_yticks
    monkeypatch.setattr(Axes, "scatter", lambda ax, x, y, **own: dots.append((x, y)) or draw(ax, x, y, **own))
    monkeypatch.setattr(SubFigure, "suptitle", lambda fig, text, **own: titles.append(text) or title(fig, text, **own))
    monkeypatch.setattr(Axes, "set_yticks", lambda ax, at, text: ticks.append(text) or label(ax, at, text))
    trials, result = searched(tmp_path, N, method)
    for name in "ab":
        figures.search_trials(tmp_path / f"{name}.png", trials, result)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    first = first_changes(trials, "loss" if method == "loss" else "search")
    assert len(dots) == 2 * N and len(first) > N
    for name, (x, y) in zip(weight_names(N), dots, strict=False):
        np.testing.assert_array_equal(x, first[name])
        np.testing.assert_allclose(y, 100 * first["change"] / first["zero"])
    of = " of the denoising loss" * (method == "loss")
    assert titles[0] == f"Merge search: {method}, {len(first)} trials{of}"
    shown = {
        ", ".join(f"{w:.3g}" for w in row) for row in trials.loc[trials["round"] == "confirm", weight_names(N)].values
    }
    assert {text.removesuffix("\n(uniform)") for text in ticks[0]} == shown - {", ".join(["0"] * N)}
    assert [text for text in ticks[0] if "uniform" in text] == [", ".join([f"{1 / N:.3g}"] * N) + "\n(uniform)"]


def test_the_picture_of_a_search_per_block_shows_the_best_finalists_weights(tmp_path, monkeypatch):
    """Two blocks with two weights each; as many columns in the trials."""
    shown, ticks = [], []
    text, label = Axes.text, Axes.set_yticks
    monkeypatch.setattr(Axes, "text", lambda ax, x, y, s, **own: shown.append(s) or text(ax, x, y, s, **own))
    monkeypatch.setattr(Axes, "set_yticks", lambda ax, at, names: ticks.append(names) or label(ax, at, names))
    trials, result = searched(tmp_path, 4, "loss")
    weights = [0.25, -0.5, 0.75, 1.0]
    figures.search_trials(tmp_path / "x.png", trials, replace(result, best=weights, blocks=["mid_block", "rest"]))
    assert shown == ["+0.25", "−0.50", "+0.75", "+1.00"]
    assert ticks[1] == ["mid_block", "rest"]
    assert set(ticks[0]) == {"0.25, 0.25", "each block its own"}  # what the search holds against w = 0


def test_finalists_are_shown_in_per_cent_of_zero_with_their_interval(tmp_path, monkeypatch):
    """Two blocks: w = 0 has 2 and 4, (0.25, 0) changes them by −1 and −0.5: −25 ± 12.7 · 8.33 % of 3."""
    lines: list[Any] = []
    draw = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda ax, *data, **own: lines.append((data, own)) or draw(ax, *data, **own))
    rows = [("confirm", first, 20, *w, score) for first, w, score in [
        (0, (0.0, 0.0), 2.0), (20, (0.0, 0.0), 4.0), (0, (0.25, 0.0), 1.0), (20, (0.25, 0.0), 3.5),
    ]]  # fmt: skip
    trials = pd.concat([TRIALS[TRIALS["round"] == "search"], pd.DataFrame(rows, columns=TRIALS.columns)])
    figures.search_trials(tmp_path / "x.png", trials, search_result([0.25, 0.0]))
    (ends, _), (point, style) = lines
    half = 12.706204736432095 * 100 / 3 * 0.25
    np.testing.assert_allclose(ends[0], [-25 - half, -25 + half])
    assert point[0] == pytest.approx(-25)
    assert (point[2], style["color"]) == ("*", figures.CHOSEN)  # the choice


def test_heat_maps_show_the_numbers(tmp_path, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **style: shown.append(text))
    rows = {"pretrained": [0.5, 0.02], "expert 1": [0.4, 0.025], "expert 2": [0.5, 0.01], "merged": [0.55, 0.02]}
    losses = pd.DataFrame.from_dict(rows, orient="index", columns=RANGES[2])
    figures.loss_matrix_heatmap(tmp_path / "loss.png", losses, MODELS)
    figures.cosine_matrix(tmp_path / "cosines.png", np.array([[1.0, -0.04], [-0.04, 1.0]]), RANGES[2])
    assert shown == ["−20.00", "+25.00", "+0.00", "−50.00", "+10.00", "+0.00", "1.000", "−0.040", "−0.040", "1.000"]


def test_samples_keep_their_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 500), dtype=np.uint8)
    for name, values in {"a": pixels, "b": 255 - pixels}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    figures.samples_side_by_side(tmp_path / "out.png", {name: tmp_path / f"{name}.png" for name in "ab"})
    sheet = np.asarray(Image.open(tmp_path / "out.png").convert("L"))
    np.testing.assert_array_equal(sheet[-60:], (255 - pixels).repeat(2, 0).repeat(2, 1))  # the last one, at the bottom
    assert any(np.array_equal(sheet[top : top + 60], pixels.repeat(2, 0).repeat(2, 1)) for top in range(100))


SCORES = [
    "frechet_train",
    "frechet_heldout",
    "kid_train",
    *(f"judge_{j}_{p}" for j in "ab" for p in ("train", "heldout")),
]
STATISTICS = {name: [0.25] for name in ("mean", "deviation", "gradient", "black", "white")}


def arguments(run: Path, N: int, method: str, baselines: list[str]) -> list[str]:
    """Made-up inputs of the stage below `run`, and its arguments but --out."""
    rng = np.random.default_rng(N)
    (run / "metrics").mkdir()
    (run / "curves").mkdir()
    section = dag(N, baselines)
    for model, path in section["models"].items():
        (run / "metrics" / f"{model}.json").write_text(json.dumps(all_metrics().get(model, metrics())))
        (run / "scores" / path).parent.mkdir(parents=True, exist_ok=True)
        blocks = pd.DataFrame(rng.uniform(size=(6, len(SCORES))), columns=SCORES)
        blocks.to_csv(run / "scores" / f"{path}.csv", index_label="block")
        (run / "judged" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "judged" / f"{path}.json").write_text(json.dumps({"statistics": STATISTICS}))
        if model in ("pretrained", *DEME):  # the pictures show no baseline
            (run / "samples" / path).mkdir(parents=True)
            picture = Image.fromarray(rng.integers(0, 256, (20, 100), dtype=np.uint8))
            picture.save(run / "samples" / path / "preview.png")
    for i in range(1, N + 1):
        curve = pd.DataFrame({"step": [50, 100], "denoising": rng.uniform(size=2), "consistency": rng.uniform(size=2)})
        curve.to_csv(run / "curves" / f"{i}.csv", index=False)
        write_tensors(run / f"{i}.safetensors", {"weight": torch.from_numpy(rng.normal(size=5))})
    models = ["pretrained", *(f"expert {i}" for i in range(1, N + 1)), "merged_uniform", "merged"]
    losses = pd.DataFrame(rng.uniform(0.1, 0.2, (N + 3, N)), pd.Index(models, name="model"), RANGES[N])
    losses.to_csv(run / "losses.csv")
    searched(run, N, method)[1].write(run / "result.json")
    (run / "calibration.json").write_text(json.dumps({"message": "Calibration: well." if baselines else None}))
    experts = [[i, RANGES[N][i - 1], "pretrained", 0.1, 0.11, -9.0, -10.0, -8.0, True, 0.1] for i in range(1, N + 1)]
    pd.DataFrame(experts, columns=NOT_MEASURED.columns).to_csv(run / "experts.csv", index=False)
    (run / "real.json").write_text(json.dumps({"train": STATISTICS, "floor": {}}))
    top = {"name": "toy", "N": N, "p": 0.4, "seed": 0, "boundaries": None, "baselines": baselines, "dag": section}
    top |= {"directions": ["range"]}
    top |= {"random_draws": 1, "gate": {"draws": 1, "must_win": "stop"}, "finetune_range": {"iterations": 800}}
    (run / "params.yaml").write_text(json.dumps(top | {"judges": {"folder": "j/final", "development": "j/dev"}}))
    return [
        "--metrics", "metrics", "--scores", "scores", "--samples", "samples", "--curves", "curves", "--vectors", ".",
        "--loss-matrix", "losses.csv", "--search", ".", "--calibration", "calibration.json",
        "--experts", "experts.csv", "--own-experts", "experts.csv", "--judged", "judged", "--real", "real.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("N", "method", "baselines"),
    [(1, "grid", []), (2, "loss", ["full_range", "soup_greedy"]), (4, "surrogate", list(BASELINES))],
)
def test_stage(tmp_path, monkeypatch, capsys, N, method, baselines):
    words = ["report.py", *arguments(tmp_path, N, method, baselines)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*words, "--out", "a"])
    runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert (tmp_path / "a/results.txt").read_text(encoding="utf-8") in said
    assert said.endswith("report: the whole page, with every picture -> a/results.md\n")
    text = (tmp_path / "a/results.md").read_text(encoding="utf-8")
    assert text.startswith(f"# toy: DeMe with N = {N}\n")
    assert text.split("\n\n")[1].startswith("Calibration: well." if baselines else "**Verdict** of the final")
    pictures = set(re.findall(r"\]\((.*)\)", text))
    assert pictures == set(PICTURES)
    table = pd.read_csv(tmp_path / "a/results.csv", index_col="model")
    assert list(table.index) == list(dag(N, baselines)["models"])
    assert ("Beside the best" in text) == bool(baselines)
    assert table.loc["merged", "steps"] == f"{N} × 800"
    assert {file.name for file in (tmp_path / "a").iterdir()} == pictures | {"results.md", "results.csv", "results.txt"}
    if N == 2:  # once more in a new process, in another's matplotlib style, and without the slow import of diffusers
        (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 40\n")
        code = (
            f"import runpy, sys; sys.argv = {[*words, '--out', 'b']}; "
            f"runpy.run_path({str(ROOT / 'stages/report.py')!r}, run_name='__main__'); "
            "sys.exit('diffusers' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    (tmp_path / "curves/extra.csv").touch()
    with pytest.raises(SystemExit, match=rf"hold \[{N + 1}, {N}, {N}\] ranges, from different runs; run `dvc repro`"):
        runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")


def test_a_run_that_holds_nothing_out_leaves_the_held_out_losses_out_and_says_so(tmp_path, monkeypatch):
    words = arguments(tmp_path, 2, "grid", [])
    losses = pd.read_csv(tmp_path / "losses.csv", index_col="model")
    (losses * float("nan")).to_csv(tmp_path / "losses.csv")  # as the stage loss_matrix writes it of no image
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", *words, "--out", "a"])
    runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")
    text = (tmp_path / "a/results.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((.*)\)", text)) == set(PICTURES) - {"loss_matrix.png"}
    assert not (tmp_path / "a/loss_matrix.png").exists()
    assert text.count("No image is held out (data.held_out = 0): the held-out losses") == 1
