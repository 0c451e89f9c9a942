"""The figures of the report: they show the numbers, with the same bytes every time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import search_result
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from PIL import Image
from reported import RANGES, TRIALS, searched

from deme_core.report import figures
from deme_core.report.tables import first_changes, weight_names
from deme_core.report.text import MODELS


@pytest.mark.parametrize(
    ("N", "method"), [(1, "grid"), (2, "grid"), (4, "surrogate"), (1, "loss"), (2, "loss"), (4, "loss")]
)
def test_the_picture_of_a_search_shows_every_trial_and_finalist(tmp_path, monkeypatch, N, method):
    dots, titles, ticks = [], [], []
    draw, title, label = Axes.scatter, SubFigure.suptitle, Axes.set_yticks
    monkeypatch.setattr(Axes, "scatter", lambda ax, x, y, **how: dots.append((x, y)) or draw(ax, x, y, **how))
    monkeypatch.setattr(SubFigure, "suptitle", lambda fig, text, **how: titles.append(text) or title(fig, text, **how))
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
    monkeypatch.setattr(Axes, "text", lambda ax, x, y, s, **how: shown.append(s) or text(ax, x, y, s, **how))
    monkeypatch.setattr(Axes, "set_yticks", lambda ax, at, names: ticks.append(names) or label(ax, at, names))
    trials, result = searched(tmp_path, 4, "loss")
    weights = [0.25, -0.5, 0.75, 1.0]
    figures.search_trials(tmp_path / "x.png", trials, replace(result, best=weights, blocks=["mid_block", "rest"]))
    assert shown == ["+0.25", "−0.50", "+0.75", "+1.00"]
    assert ticks[1] == ["mid_block", "rest"]
    assert set(ticks[0]) == {"0.25, 0.25", "each block its own"}  # what the search holds against w = 0


def test_finalists_are_shown_in_per_cent_of_zero_with_their_interval(tmp_path, monkeypatch):
    """Two blocks: w = 0 has 2 and 4, (0.25, 0) halves both but for a luck of 1.1: as the search decides, by ratios."""
    lines: list[Any] = []
    draw = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda ax, *data, **how: lines.append((data, how)) or draw(ax, *data, **how))
    rows = [("confirm", first, 20, *w, score) for first, w, score in [
        (0, (0.0, 0.0), 2.0), (20, (0.0, 0.0), 4.0), (0, (0.25, 0.0), 1.1), (20, (0.25, 0.0), 2 / 1.1),
    ]]  # fmt: skip
    trials = pd.concat([TRIALS[TRIALS["round"] == "search"], pd.DataFrame(rows, columns=TRIALS.columns)])
    figures.search_trials(tmp_path / "x.png", trials, search_result([0.25, 0.0]))
    (ends, _), (point, style) = lines
    half = 12.706204736432095 * np.log(1.1)
    np.testing.assert_allclose(ends[0], 100 * np.expm1(np.log(0.5) + np.array([-half, half])))
    assert point[0] == pytest.approx(-50)
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
