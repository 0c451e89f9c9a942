"""The stage report: a whole page from made-up inputs, the same in a new process."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reported import RANGES, all_metrics, metrics, searched

from deme_core.dag import AWAY, BASELINES, DEME, dag
from deme_core.report import figures
from deme_core.report.tables import PICTURES
from deme_core.report.text import model_name
from deme_core.tensors import write_tensors
from deme_core.training.gate import NOT_MEASURED

ROOT = Path(__file__).parents[1]


SCORES = [
    "frechet_train",
    "frechet_heldout",
    "kid_train",
    *(f"judge_{j}_{p}" for j in "ab" for p in ("train", "heldout")),
]
STATISTICS = {name: [0.25] for name in ("mean", "deviation", "gradient", "black", "white")}


def arguments(
    run: Path, N: int, method: str, baselines: list[str], directions: tuple[str, ...] = ("range",)
) -> list[str]:  # fmt: skip
    """Made-up inputs of the stage below `run`, and its arguments but --out."""
    rng = np.random.default_rng(N)
    (run / "metrics").mkdir()
    (run / "curves").mkdir()
    section = dag(N, baselines, directions=directions)
    for model, path in section["models"].items():
        (run / "metrics" / f"{model}.json").write_text(json.dumps(all_metrics().get(model, metrics())))
        (run / "scores" / path).parent.mkdir(parents=True, exist_ok=True)
        blocks = pd.DataFrame(rng.uniform(size=(6, len(SCORES))), columns=SCORES)
        blocks.to_csv(run / "scores" / f"{path}.csv", index_label="block")
        (run / "judged" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "judged" / f"{path}.json").write_text(json.dumps({"statistics": STATISTICS}))
        if model in ("pretrained", *DEME, AWAY):  # the pictures show no baseline
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
    (run / "real.json").write_text(json.dumps({"train": STATISTICS, "floor": {}, "floor_images": 0}))
    top = {"name": "toy", "N": N, "p": 0.4, "seed": 0, "boundaries": None, "baselines": baselines, "dag": section}
    top |= {"directions": list(directions)}
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


def test_the_step_away_is_pictured_beside_the_papers_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sheets: list[str] = []
    draw = figures.samples_side_by_side
    monkeypatch.setattr(figures, "samples_side_by_side", lambda path, of: sheets.extend(of) or draw(path, of))  # type: ignore[func-returns-value]
    words = arguments(tmp_path, 2, "grid", [], ("range", "self"))
    monkeypatch.setattr(sys, "argv", ["report.py", *words, "--out", "a"])
    runpy.run_path(str(ROOT / "stages/report.py"), run_name="__main__")
    assert sheets == list(map(model_name, ("pretrained", *DEME, AWAY)))
