"""The report: hand-worked tables and verdicts, figures with the same bytes every time, and the whole stage."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from deme_core.dag import DEME, RIVALS, dag
from deme_core.errors import InputError
from deme_core.merging.search import TrialLog, search
from deme_core.merging.settings import SearchParams
from deme_core.report import figures
from deme_core.report.tables import (
    MODELS,
    PICTURES,
    best_rival,
    model_name,
    page,
    read_metrics,
    read_scores,
    results,
    search_scores,
    training_steps,
    verdict,
)
from deme_core.tensors import write_tensors

ROOT = Path(__file__).parents[1]
RANGES = {1: ["[0, 1000)"], 2: ["[0, 500)", "[500, 1000)"], 4: [f"[{t}, {t + 250})" for t in range(0, 1000, 250)]}


def metrics(change: tuple[float, float, float] = (0, 0, 0), heldout: bool = True, **other: Any) -> dict[str, Any]:
    """Flat metrics; `change` to the training part is (value, low, high), that to the held-out part its negative."""
    out: dict[str, Any] = {"images": 1200, "seed_block": "EVALUATION", "seed_blocks": 6, "reference_images": 1437}
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
    """The results of a run without rivals: N = 2, 800 steps an expert."""
    return results(all_metrics(**other), {}, 2, 800)


TRAIN = {  # scores on three seed blocks
    "pretrained": [1.0, 1.2, 1.4], "ensemble": [0.8, 1.0, 1.2], "merged_uniform": [0.9, 1.1, 1.0],
    "merged": [0.5, 0.7, 0.6], "full_range": [0.7, 0.9, 1.1], "full_range+scale": [0.6, 0.8, 1.0],
    "soup_greedy": [0.7, 1.0, 0.9],
}  # fmt: skip


def with_rivals(heldout: bool = True) -> tuple[dict[str, dict[str, Any]], dict[str, pd.DataFrame]]:
    """Metrics and block scores; `full_range+scale` is the best rival on the training part, not on the held-out one.

    The held-out scores are 2 minus those of the training part.
    """
    models = all_metrics(heldout=heldout) | {m: metrics(heldout=heldout) for m in TRAIN if m not in all_metrics()}
    distances = {"merged": 0.3, "full_range": 0.6, "full_range+scale": 0.5, "soup_greedy": 0.55}
    for model, distance in distances.items():
        models[model]["frechet_train"] = distance
        if heldout:
            models[model]["frechet_heldout"] = 1 - distance
    scores = {m: pd.DataFrame({"frechet_train": own, "kid_train": [0.1, 0.2, 0.3]}) for m, own in TRAIN.items()}
    if heldout:
        scores = {m: own.assign(frechet_heldout=2 - own["frechet_train"]) for m, own in scores.items()}
    return models, scores


def searched(directory: Path, N: int, method: str = "grid") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Trials and result of a real search on a made-up score, whose luck differs between the rounds."""
    params = SearchParams(
        method="auto", values=(0, 0.25, 1), scales=(), max_trials=82, images=50, finalists=3, final_images=400,
        final_blocks=4,
    )  # fmt: skip
    log = TrialLog(directory / "trials.csv", N)
    best = np.linspace(0.2, 0.6, N)
    result = search(
        lambda w, block, first, images: float(np.sum((w - best) ** 2)) + (block + first) / 1000, N, params, log, method
    )
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
    assert not [column for column in table if "rival" in column]
    np.testing.assert_allclose(table["frechet_train_change_percent"], [0, -25, 50, -12.5])
    shown = ["baseline", "better than pretrained", "worse than pretrained", "no difference shown"]
    assert list(table["frechet_train_verdict"]) == shown
    assert list(table["frechet_heldout_verdict"]) == [shown[0], shown[2], shown[1], shown[3]]
    table.to_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv", index_col="model"), table, check_dtype=False)


def test_page_by_hand(tmp_path):
    trials, result = searched(tmp_path, 2)
    text = page("toy", table_of(), trials, result, {"samples.png": "A caption."})
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert [sum(row.startswith(f"| {name} |") for row in rows) for name in MODELS.values()] == [1, 1, 1, 1] + [0] * 7
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
    assert "rival" not in text
    assert "kept w = 0" in page("toy", table_of(), trials, result | {"weights": [0.0, 0.0]}, {})


def test_without_held_out_part_and_with_a_large_kid(tmp_path):
    table = table_of(heldout=False, kid_train=0.5, kid_train_low=0.25, kid_train_high=0.75)
    text = page("toy", table, *searched(tmp_path, 1), {})
    assert "held-out part" not in text and "10⁻³" not in text and "| 0.5000 ± 0.2500 | 25.0 % |" in text


def test_search_scores_by_hand():
    rows = [("search", 0, 0, 5.0), ("search", 0.25, 0.5, 4.0), ("confirm", 0, 0, 2.0), ("confirm", 0.5, 0.5, 1.75)]
    rows += [("confirm", 0.25, 0.5, 1.5)]
    scores = search_scores(pd.DataFrame(rows, columns=["round", "w1", "w2", "score"]), {"weights": [0.25, 0.5]})
    np.testing.assert_array_equal(scores["search"], [4.0, 5.0, np.nan])  # the search did not try 1/N
    np.testing.assert_array_equal(scores["confirm"], [1.5, 2.0, 1.75])
    np.testing.assert_array_equal(scores["gap"], [-2.5, -3.0, np.nan])


@pytest.mark.parametrize("method", ["grid", "coordinate"])
def test_search_scores_are_those_of_the_search(tmp_path, method):
    trials, result = searched(tmp_path, 3, method)  # 1/3 goes through a CSV
    scores = search_scores(trials, result)
    winner, zero, uniform = scores["confirm"]
    assert result["confirm_score"] == pytest.approx(winner) and result["gap"] == pytest.approx(scores["gap"].iloc[0])
    assert (zero, uniform) == pytest.approx((result["confirm_score_pretrained"], result["confirm_score_uniform"]))


def test_mistakes_are_named(tmp_path):
    for model, values in all_metrics().items():
        (tmp_path / f"{model}.json").write_text(json.dumps(values))
    (tmp_path / "full_range.json").write_text("left over from a run with rivals")
    assert read_metrics(tmp_path, all_metrics()) == all_metrics()
    (tmp_path / "merged_uniform.json").unlink()
    with pytest.raises(InputError, match=r"merged_uniform\.json: no such file; `dvc repro evaluate@merged_uniform`"):
        read_metrics(tmp_path, all_metrics())
    with pytest.raises(InputError, match=r"merged was measured with sampler_steps = 50, pretrained with 20"):
        results(all_metrics() | {"merged": metrics(sampler_steps=50)}, {}, 2, 800)
    with pytest.raises(InputError, match=r"only one of ensemble and pretrained has 'kid_heldout'"):
        results(all_metrics() | {"ensemble": metrics(kid_heldout=1)}, {}, 2, 800)
    with pytest.raises(InputError, match=r"min_snr was measured with images = 60, pretrained with 1200"):
        results(all_metrics() | {"min_snr": metrics(images=60)}, {}, 2, 800)


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


# Rivals


def test_every_model_that_a_run_can_measure_has_its_name():
    names = [model_name(model) for model in dag(4, RIVALS)["models"]]
    assert len(set(names)) == len(names) == 1 + len(DEME) + 2 * len(RIVALS) - 1
    assert model_name("min_snr") == "Min-SNR-γ"
    assert model_name("min_snr+scale") == "Min-SNR-γ, searched scale"


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        ("pretrained", "—"), ("ensemble", "4 × 1,600"), ("merged_uniform", "4 × 1,600"), ("merged", "4 × 1,600"),
        ("full_range", "6,400"), ("full_range+scale", "6,400"), ("snr_plus_one", "6,400"), ("truncated_snr", "6,400"),
        ("min_snr+scale", "6,400"), ("loss_equivalent", "6,400"), ("soup_full_range", "4 × 1,600"),
        ("soup_full_range+scale", "4 × 1,600"), ("soup_greedy", "4 × 1,600"),
    ],
)  # fmt: skip
def test_training_steps_by_hand(model, steps):
    assert training_steps(model, 4, 1600) == steps


def test_the_best_rival_is_chosen_on_the_training_part_among_the_rivals():
    models, _ = with_rivals()
    assert best_rival(models) == "full_range+scale"  # `merged` has the lowest distance, and is no rival
    models["soup_greedy"]["frechet_train"] = 0.45
    assert best_rival(models) == "soup_greedy"
    assert best_rival(all_metrics()) is None


def test_results_with_rivals_by_hand():
    """Differences to full_range+scale: pretrained 0.4 on every block, merged −0.1, −0.1, −0.4."""
    table = results(*with_rivals(), 2, 800)
    assert set(table["best_rival"]) == {"full_range+scale"}
    steps = ["—", "2 × 800", "2 × 800", "2 × 800", "1,600", "1,600", "2 × 800"]
    assert dict(zip(table.index, table["steps"], strict=True)) == dict(zip(TRAIN, steps, strict=True))
    ends = [f"frechet_train_rival_change{end}" for end in ("", "_low", "_high")]
    half = 4.302652729911275 * np.sqrt(0.03) / np.sqrt(3)  # t(0.975, 2), deviation of −0.1, −0.1, −0.4
    assert list(table.loc["merged", ends]) == pytest.approx([-0.2, -0.2 - half, -0.2 + half])
    assert list(table.loc["pretrained", ends]) == pytest.approx([0.4, 0.4, 0.4])
    assert list(table.loc["full_range", ends]) == pytest.approx([0.1, 0.1, 0.1])
    assert list(table.loc["full_range+scale", ends]) == [0, 0, 0]
    heldout = [end.replace("train", "heldout") for end in ends]  # the same rival, on the other part
    assert list(table.loc["pretrained", heldout]) == pytest.approx([-0.4, -0.4, -0.4])
    assert list(table.loc["merged", heldout]) == pytest.approx([0.2, 0.2 - half, 0.2 + half])
    np.testing.assert_allclose(table.loc[["ensemble", "full_range"], "frechet_train_change"], [-0.2, 0])  # as measured


def test_page_with_rivals_by_hand(tmp_path):
    models, scores = with_rivals()
    scores["merged"] = scores["merged"].assign(frechet_train=[0.5, 0.7, 0.9])  # −0.1 on every block
    text = page("toy", results(models, scores, 2, 800), *searched(tmp_path, 2), {})
    lines = text.splitlines()
    rows = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ") for row in lines if row.startswith("|")}
    header = rows["model"]
    assert header.count("against the best rival<br>paired [95 %]") == 2
    train, heldout = (i for i, cell in enumerate(header) if "best rival" in cell)
    assert rows[MODELS["pretrained"]][train] == "+0.4000 [+0.4000, +0.4000]"
    assert rows[MODELS["merged"]][train] == "−0.1000 [−0.1000, −0.1000]"
    assert rows[MODELS["pretrained"]][heldout] == "−0.4000 [−0.4000, −0.4000]"
    own = rows["full-range finetune, searched scale"]
    assert (own[train], own[heldout]) == ("—", "—")
    assert own[header.index("training steps")] == "1,600"
    assert rows[MODELS["soup_greedy"]][header.index("training steps")] == "2 × 800"
    assert {len(row) for row in rows.values() if row[0] in map(model_name, models)} == {len(header)}

    start = lines.index(
        "Against the best rival, full-range finetune, searched scale (the lowest distance to the training part on the"
        " very seeds of this table, which favours the rivals):"
    )
    none = "no difference shown on the training part; no difference shown on the held-out part"
    assert lines[start + 2 : start + 6] == [
        f"- {MODELS['ensemble']}: worse than it on the training part; better than it on the held-out part",
        f"- {MODELS['merged_uniform']}: {none}",  # 0.3, 0.3, 0.0: 0.2 ± 0.43
        f"- {MODELS['merged']}: better than it on the training part; no difference shown on the held-out part",
        "",
    ]
    assert f"- {MODELS['soup_greedy']}: {none}" in lines  # against the pretrained model


def test_page_with_rivals_but_without_held_out_part(tmp_path):
    text = page("toy", results(*with_rivals(heldout=False), 2, 800), *searched(tmp_path, 2), {})
    assert f"- {MODELS['ensemble']}: worse than it on the training part\n" in text
    assert "on the held-out part" not in text


def test_mean_scores_by_hand():
    trials = pd.DataFrame({"w1": [0, 0, 0.5, 0.5], "w2": [0, 0.5, 0, 0], "score": [1.0, 2.0, 3.0, 5.0]})
    means = figures.mean_scores(trials, ["w1", "w2"])
    np.testing.assert_array_equal(means[1, 0], [[1, 4], [2, np.nan]])  # rows w2, columns w1
    np.testing.assert_array_equal(np.diag(means[0, 0]), [1.5, 4])
    np.testing.assert_array_equal(np.diag(means[1, 1]), [3, 2])


def test_uniform_weights_off_the_grid_are_no_mean():
    grid = pd.DataFrame({"w1": [0.0, 0, 1, 1], "w2": [0.0, 1, 0, 1], "score": [1.0, 2.0, 3.0, 4.0]})
    uniform = pd.DataFrame({"w1": [0.5], "w2": [0.5], "score": [0.1]})
    pd.testing.assert_frame_equal(
        figures.without_lone_uniform(pd.concat([grid, uniform], ignore_index=True), ["w1", "w2"]), grid
    )
    on_grid = grid.replace({"w1": {0: 0.5}, "w2": {0: 0.5}})
    pd.testing.assert_frame_equal(figures.without_lone_uniform(on_grid, ["w1", "w2"]), on_grid)
    alone = pd.DataFrame({"w1": [0.0, 1.0], "score": [1.0, 2.0]})
    pd.testing.assert_frame_equal(figures.without_lone_uniform(alone, ["w1"]), alone)


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


def arguments(run: Path, N: int, method: str, rivals: list[str]) -> list[str]:
    """Made-up inputs of the stage below `run`, and its arguments but --out."""
    rng = np.random.default_rng(N)
    (run / "metrics").mkdir()
    (run / "curves").mkdir()
    section = dag(N, rivals)
    for model, path in section["models"].items():
        (run / "metrics" / f"{model}.json").write_text(json.dumps(all_metrics().get(model, metrics())))
        (run / "scores" / path).parent.mkdir(parents=True, exist_ok=True)
        blocks = pd.DataFrame(rng.uniform(size=(6, 3)), columns=["frechet_train", "frechet_heldout", "kid_train"])
        blocks.to_csv(run / "scores" / f"{path}.csv", index_label="block")
        if model in ("pretrained", *DEME):  # the pictures show no rival
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
    (run / "result.json").write_text(json.dumps(searched(run, N, method)[1]))
    (run / "calibration.json").write_text(json.dumps({"message": "Calibration: well." if rivals else None}))
    top = {"name": "toy", "N": N, "p": 0.4, "seed": 0, "boundaries": None, "rivals": rivals, "dag": section}
    (run / "params.yaml").write_text(json.dumps(top | {"finetune_range": {"iterations": 800}}))
    return [
        "--metrics", "metrics", "--scores", "scores", "--samples", "samples", "--curves", "curves", "--vectors", ".",
        "--loss-matrix", "losses.csv", "--search", ".", "--calibration", "calibration.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("N", "method", "rivals"),
    [(1, "grid", []), (2, "grid", ["full_range", "soup_greedy"]), (4, "coordinate", list(RIVALS))],
)
def test_stage(tmp_path, monkeypatch, N, method, rivals):
    words = ["report.py", *arguments(tmp_path, N, method, rivals)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*words, "--out", "a"])
    runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")
    text = (tmp_path / "a/results.md").read_text(encoding="utf-8")
    assert text.startswith(f"# toy: DeMe with N = {N}\n")
    assert text.split("\n\n")[1].startswith("Calibration: well." if rivals else "| model")
    pictures = set(re.findall(r"\]\((.*)\)", text))
    assert pictures == set(PICTURES)
    table = pd.read_csv(tmp_path / "a/results.csv", index_col="model")
    assert list(table.index) == list(dag(N, rivals)["models"])
    assert ("best_rival" in table) == ("Against the best rival" in text) == bool(rivals)
    assert table.loc["merged", "steps"] == f"{N} × 800"
    assert {file.name for file in (tmp_path / "a").iterdir()} == pictures | {"results.md", "results.csv"}
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
