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

from deme_core.errors import InputError
from deme_core.merging.search import TrialLog, search
from deme_core.merging.settings import SearchParams
from deme_core.report import figures
from deme_core.report.tables import MODELS, page, read_metrics, results, search_scores, verdict
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
    changes = [(0, 0, 0), (-0.2, -0.3, -0.1), (0.4, 0.2, 0.6), (-0.1, -0.3, 0.1)]
    return {model: metrics(change, **other) for model, change in zip(MODELS, changes, strict=True)}


def searched(directory: Path, N: int, method: str = "grid") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Trials and result of a real search on a made-up score, whose luck differs between the rounds."""
    params = SearchParams(
        method=method, values=(0, 0.25, 1), max_trials=82, images=50, finalists=3, final_images=400, final_blocks=4
    )
    log = TrialLog(directory / "trials.csv", N)
    best = np.linspace(0.2, 0.6, N)
    result = search(
        lambda w, block, first, images: float(np.sum((w - best) ** 2)) + (block + first) / 1000, N, params, log
    )
    return pd.read_csv(directory / "trials.csv"), result


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.3, 0.1, "no diff"), (-0.3, 0, "no diff"), (0, 0, "no diff")],
)
def test_verdict(low, high, expected):
    assert verdict(low, high).startswith(expected)


def test_results_by_hand(tmp_path):
    table = results(all_metrics())
    assert list(table.index) == list(MODELS)
    np.testing.assert_allclose(table["frechet_train_change_percent"], [0, -25, 50, -12.5])
    shown = ["baseline", "better than pretrained", "worse than pretrained", "no difference shown"]
    assert list(table["frechet_train_verdict"]) == shown
    assert list(table["frechet_heldout_verdict"]) == [shown[0], shown[2], shown[1], shown[3]]
    table.to_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv", index_col="model"), table, check_dtype=False)


def test_page_by_hand(tmp_path):
    trials, result = searched(tmp_path, 2)
    text = page("toy", results(all_metrics()), trials, result, {"samples.png": "A caption."})
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert [sum(row.startswith(f"| {name} |") for row in rows) for name in MODELS.values()] == [1, 1, 1, 1]
    ensemble = next(row for row in rows if "ensemble" in row).strip("| ").split(" | ")
    assert ensemble[1:3] == ["0.8000<br>0.5000 [0.2500, 0.7500]", "−0.2000 [−0.3000, −0.1000]<br>(−25.0 %)"]
    assert ensemble[4:] == [
        "+0.2000 [+0.1000, +0.3000]<br>(+25.0 %)", "4.000 ± 1.000", "25.0 %<br>(real 40.5 %)", "634,273", "15,003,648",
    ]  # fmt: skip
    assert "in 10⁻³" in rows[0]
    protocol = next(line for line in lines if line.startswith("Protocol"))
    for fact in ("1,200 images", "EVALUATION", "6 blocks of 200", "ddim, 20 steps, uniform", "`x-0123`", "1,437"):
        assert fact in protocol
    better, worse = "better than pretrained on the training part", "worse than pretrained on the held-out part"
    assert f"- {MODELS['ensemble']}: {better}; {worse}" in lines
    assert lines[-3:] == ["![samples](samples.png)", "", "A caption."]
    assert "kept w = 0" not in text
    assert "kept w = 0" in page("toy", results(all_metrics()), trials, result | {"weights": [0.0, 0.0]}, {})


def test_without_held_out_part_and_with_a_large_kid(tmp_path):
    table = results(all_metrics(heldout=False, kid_train=0.5, kid_train_low=0.25, kid_train_high=0.75))
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
    assert read_metrics(tmp_path) == all_metrics()
    (tmp_path / "merged_uniform.json").unlink()
    with pytest.raises(InputError, match=r"merged_uniform\.json: no such file; `dvc repro evaluate@merged_uniform`"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"merged was measured with sampler_steps = 50, pretrained with 20"):
        results(all_metrics() | {"merged": metrics(sampler_steps=50)})
    with pytest.raises(InputError, match=r"only one of ensemble and pretrained has 'kid_heldout'"):
        results(all_metrics() | {"ensemble": metrics(kid_heldout=1)})


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


def arguments(run: Path, N: int, method: str) -> list[str]:
    """Made-up inputs of the stage below `run`, and its arguments but --out."""
    rng = np.random.default_rng(N)
    (run / "metrics").mkdir()
    (run / "curves").mkdir()
    for model, values in all_metrics().items():
        (run / "metrics" / f"{model}.json").write_text(json.dumps(values))
        (run / "samples" / model).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20, 100), dtype=np.uint8)).save(run / "samples" / model / "preview.png")
    for i in range(1, N + 1):
        curve = pd.DataFrame({"step": [50, 100], "denoising": rng.uniform(size=2), "consistency": rng.uniform(size=2)})
        curve.to_csv(run / "curves" / f"{i}.csv", index=False)
        write_tensors(run / f"{i}.safetensors", {"weight": torch.from_numpy(rng.normal(size=5))})
    models = ["pretrained", *(f"expert {i}" for i in range(1, N + 1)), "merged_uniform", "merged"]
    losses = pd.DataFrame(rng.uniform(0.1, 0.2, (N + 3, N)), pd.Index(models, name="model"), RANGES[N])
    losses.to_csv(run / "losses.csv")
    (run / "result.json").write_text(json.dumps(searched(run, N, method)[1]))
    top = {"name": "toy", "N": N, "p": 0.4, "seed": 0, "boundaries": None, "ranges": list(range(1, N + 1))}
    (run / "params.yaml").write_text(json.dumps(top))
    return [
        "--metrics", "metrics", "--samples-pretrained", "samples/pretrained", "--samples", "samples",
        "--curves", "curves", "--vectors", ".", "--loss-matrix", "losses.csv", "--search", ".",
    ]  # fmt: skip


@pytest.mark.parametrize(("N", "method"), [(1, "grid"), (2, "grid"), (4, "coordinate")])
def test_stage(tmp_path, monkeypatch, N, method):
    words = ["report.py", *arguments(tmp_path, N, method)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*words, "--out", "a"])
    runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")
    text = (tmp_path / "a/results.md").read_text(encoding="utf-8")
    assert text.startswith(f"# toy: DeMe with N = {N}\n")
    pictures = set(re.findall(r"\]\((.*)\)", text))
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
