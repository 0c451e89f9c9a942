"""Distance over network calls: who stands beside whom, on planted distances."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from call_rows import study_rows
from conftest import REPOSITORY

from deme_core.errors import InputError
from deme_core.report import calls
from deme_core.report.calls import by_calls, curves, network_calls


def test_a_model_with_fewer_calls_stands_beside_the_base_with_the_most() -> None:
    rows = study_rows()
    assert sorted(set(network_calls(rows))) == [5, 10, 20]
    found = curves(by_calls(rows.assign(calls=network_calls(rows))))
    assert {c: ratio.value for c, ratio in found["pretrained"].items()} == pytest.approx({5: 4, 10: 2, 20: 1})
    assert {c: ratio.value for c, ratio in found["neon"].items()} == pytest.approx({5: 2, 10: 1, 20: 0.5}, rel=0.05)
    assert found["neon"][10].low < 1 < found["neon"][10].high
    assert found["neon"][20].high < 0.6


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["calls", *map(str, words)])
    calls.main()


def test_the_page_says_what_each_model_is_worth_with_each_number_of_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = study_rows(("pretrained", "neon", "ensemble"))
    few = rows["sampler_steps"] == 5
    rows[few].to_csv(tmp_path / "few.csv", index=False)
    rows[~few].to_csv(tmp_path / "many.csv", index=False)
    out = tmp_path / "calls.md"
    command(monkeypatch, tmp_path / "few.csv", tmp_path / "many.csv", "--models", "neon", "--out", out)
    text = out.read_text(encoding="utf-8")
    cells = {tuple(row[:2]): row for row in (line.strip("| ").split(" | ") for line in text.splitlines())}
    neon = "away from own samples, searched step (Neon)"
    assert cells["pretrained", "10"][2:4] == ["—", "+100.0 % [+100.0, +100.0]"]
    assert cells["pretrained", "20"][2:] == ["—"] * 4
    assert float(cells[neon, "5"][2].split()[0].replace("−", "-")) == pytest.approx(-50, abs=3)
    assert float(cells[neon, "5"][3].split()[0].replace("−", "-")) == pytest.approx(100, abs=10)
    assert "ensemble" not in text
    assert "20: pndm, trailing" in text
    assert out.with_suffix(".png").stat().st_size > 10_000
    browsed = out.with_suffix(".html").read_text(encoding="utf-8")
    assert "<title>Distance over network calls, 3 training seeds</title>" in browsed
    assert browsed.count("data:image/png;base64,") == 1 and "−" in browsed


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (lambda rows: rows[rows["sampler_steps"] == 5], [], "found 5 network calls; at least two"),
        (lambda rows: rows[rows["model"] != "pretrained"], [], "each with the pretrained model"),
        (lambda rows: rows[rows["seed"] == 0], [], "the same training seeds"),
        (lambda rows: rows.drop(rows.index[-1]), [], "the same training seeds"),
        (lambda rows: pd.concat([rows, rows.tail(1)]), [], "two rows of one seed"),
        (lambda rows: rows.assign(judges=rows["seed"].map(str)), [], "judges: 0, 1, 2; name studies of one protocol"),
        (lambda rows: rows.assign(sampler_spacing=rows["model"]), [], "two samplers have as many network calls"),
        (lambda rows: rows, ["--models", "neno"], "--models neno: not measured there; there are pretrained, neon"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, words: list[str], said: str
) -> None:
    change(study_rows()).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=said):
        command(monkeypatch, tmp_path / "rows.csv", *words, "--out", tmp_path / "calls.md")
    with pytest.raises(InputError, match="no such file"):
        command(monkeypatch, tmp_path / "none.csv", "--out", tmp_path / "calls.md")
    with pytest.raises(InputError, match=r"--out .*calls\.html: a Markdown file is written"):
        command(monkeypatch, tmp_path / "rows.csv", "--out", tmp_path / "calls.html")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("old.csv", r"old\.csv: rows without judges; name the CSV of a study that has them, or measure it anew"),
        ("gap.csv", r"gap\.csv: rows without sampler_steps; "),
        ("unjudged.csv", r"unjudged\.csv: rows without distances of judges; "),
        ("none.csv", r"none\.csv: no rows; "),
        ("empty.csv", r"empty\.csv: no CSV file \(No columns"),
        ("text.md", r"text\.md: no CSV file \(Error tokenizing"),
        ("picture.png", r"picture\.png: no CSV file \('utf-8' codec"),
        (REPOSITORY / "reports" / "table1_experts.csv", r"table1_experts\.csv: rows without model, sampler_kind, "),
    ],
)
def test_a_file_that_is_no_study_is_named_in_one_line(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    rows = study_rows()
    rows.drop(columns="judges").to_csv("old.csv", index=False)
    rows.assign(sampler_steps=rows["sampler_steps"].where(rows["seed"] > 0)).to_csv("gap.csv", index=False)
    rows[[key for key in rows if not key.startswith("judge_")]].to_csv("unjudged.csv", index=False)
    rows.head(0).to_csv("none.csv", index=False)
    Path("empty.csv").touch()
    Path("text.md").write_text("# Title\n\nOne line.\na, b, c\n")
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=said) as error:
        command(monkeypatch, name, "--out", "calls.md")
    assert "\n" not in str(error.value)


def test_guided_calls_and_models_of_other_calls_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = study_rows().assign(sampler_guidance=7.5)
    assert sorted(set(network_calls(rows))) == [10, 20, 40]
    rows["made_for_calls"] = np.where((rows["model"] == "neon") & (rows["sampler_steps"] == 5), 20, np.nan)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command(monkeypatch, tmp_path / "rows.csv", "--out", tmp_path / "calls.md")
    assert "than it was made for: neon with 10 (made for 20)." in (tmp_path / "calls.md").read_text("utf-8")
