"""What a person sees at the end: a table that fits a log, by hand, and one line of every stage."""

import ast
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, python
from made_up_prompt_scores import two_sets

from deme_core.merging.methods import MergeParams, formula
from deme_core.metrics.headline import said
from deme_core.report.console import NAME, columns, console, prompt_console
from deme_core.report.prompt_tables import table2
from deme_core.report.text import MODELS, model_name
from deme_core.report.verdicts import lead
from deme_core.training.finetune import ended
from deme_core.training.gate import NOT_MEASURED, compare_experts, winners

PARTS = ("train", "heldout")
MODELS_OF_A_RUN = ["pretrained", "ensemble", "merged", "random1", "neon", "matched"]


def scores(parts: tuple[str, ...] = PARTS) -> dict[str, dict[str, np.ndarray]]:
    """Two judges, of which `b` likes every model but one less than the base; six blocks."""
    luck = np.linspace(1, 1.1, 6)
    factor = {"pretrained": (1, 1), "neon": (0.5, 0.8)}
    return {
        model: {
            f"judge_{judge}_{part}": luck * share for part in parts for judge, share in zip("ab", both, strict=True)
        }
        for model in MODELS_OF_A_RUN
        for both in [factor.get(model, (0.9, 1.2))]
    }


def table() -> pd.DataFrame:
    """The columns of results that are shown."""
    percent = [0.0, -3.2, 0.0, -20.4, -55.25, -42.9]
    protocol = {"judges": "group-0123", "images": 12000, "seed_blocks": 6}
    index = pd.Index(MODELS_OF_A_RUN, name="model")
    return pd.DataFrame({"frechet_train_change_percent": percent} | protocol, index)


def cells(text: str) -> list[list[str]]:
    """The cells of the lines from a table on."""
    lines = text.splitlines()
    rule = next(k for k, line in enumerate(lines) if line.startswith("---"))
    start = max(k for k in range(rule) if not lines[k].strip() or k == 0)
    return [re.split("  +", line.strip()) for line in lines[start:] if line]


def test_the_table_of_a_run_by_hand() -> None:
    base, step = "+3.9 % [+3.9, +3.9]", "−36.8 % [−36.8, −36.8]"  # 100 (√(0.9 · 1.2) − 1) and 100 (√(0.5 · 0.8) − 1)
    worst = "b +20.0 % [+20.0, +20.0]"
    found = cells(console(table(), scores(), "final judges"))
    assert found[:2] == [
        ["model", "all judges,", "worst judge,", "all judges,", "search's own"],
        ["training part", "training part", "held-out part", "extractor"],
    ]
    assert found[3:10] == [
        ["DeMe before merge (ensemble)", base, worst, base, "−3.2 %"],
        ["DeMe merged, searched w", base, worst, base, "+0.0 %"],
        ["random vectors, searched w (draw 1)", base, worst, base, "−20.4 %"],
        ["away from own samples, searched step", step, "b −20.0 % [−20.0, −20.0]", step, "−55.2 %"],
        ["(Neon)"],
        ["pretrained, brightness and contrast", base, worst, base, "−42.9 %"],
        ["of the data"],
    ]


def test_columns_are_flush() -> None:
    assert columns(["a", "b\nc"], [["one", "2"], ["three", "45678"]]).splitlines() == [
        "a          b",
        "           c",
        "-----  -----",
        "one        2",
        "three  45678",
    ]


def test_without_a_held_out_part_its_column_is_left_out() -> None:
    text = console(table(), scores(("train",)), "final judges")
    assert "held-out" not in text
    assert "search's own" in text


def test_what_the_page_leads_with_stands_above_without_marks() -> None:
    text = console(table(), scores(), "final judges", "Calibration: well.")
    verdict = lead(table(), scores(), "final judges", {}, 0)[0].replace("**", "").replace("`", "")
    assert verdict in " ".join(text.split())
    assert "\n\nCalibration: well.\n\n" in text
    assert not {"**", "`", "<br>"} & set(text)


def test_no_line_is_longer_than_a_log_shows() -> None:
    rows = [[model_name(model), *["−36.8 % [−36.8, −36.8]"] * 3, "−55.2 %"] for model in MODELS]
    assert max(map(len, columns(["model", *"abc", "d"], rows).splitlines())) <= NAME + 4 * 2 + 3 * 22 + 7


def test_table_2_by_hand() -> None:
    header, _, _, *rows = cells(prompt_console(table2(two_sets())))
    assert header == ["set: model", "CLIP score ↑", "change [95 %]", "Fréchet", "change [95 %]"]
    merge, base = (table2(two_sets()).loc[("coco", model)] for model in ("merged", "pretrained"))
    clip = f"{merge.clip_score_change:+.2f} [{merge.clip_score_change_low:+.2f}, {merge.clip_score_change_high:+.2f}]"
    assert rows[0] == ["coco: pretrained", f"{base.clip_score:.2f}", "—", "13.400", "—"]
    assert rows[1][:4] == ["coco: DeMe merged, searched w", f"{merge.clip_score:.2f}", clip, "13.100"]
    assert rows[4][3:] == ["—", "—"]  # there are no real images


# One line of every stage


@pytest.mark.parametrize("path", sorted((REPOSITORY / "stages").glob("*.py")), ids=lambda path: path.stem)
def test_every_stage_ends_with_a_line_that_says_where_its_output_lies(path) -> None:
    main = next(node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "main")
    assert ast.unparse(main.returns) == "str"
    assert isinstance(main.body[-1], ast.Return)
    assert path.stem == "calibrate" or "-> " in ast.unparse(main.body[-1])


MAIN = """
import sys
from deme_core.stage import run
def main():
    return sys.argv[1] or None
run(main)
"""


def test_the_line_is_printed_once_after_the_name_of_the_script() -> None:
    assert python(MAIN, "3 images -> out").stdout == "<string>: 3 images -> out\n"
    assert python(MAIN, "").stdout == ""
    launched = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29617"}
    assert python(MAIN, "3 images -> out", **launched, ACCELERATE_USE_CPU="1").stdout == "<string>: 3 images -> out\n"


def test_a_merge_in_words() -> None:
    assert formula(MergeParams(), None, 4) == "θ + Σ wᵢτᵢ with w = (0.25, 0.25, 0.25, 0.25)"
    assert formula(MergeParams(), [0.1, -2 / 3], 2) == "θ + Σ wᵢτᵢ with w = (0.1, -0.667)"
    params = MergeParams(method="per_block", blocks={"mid_block": [0, 1]})
    assert formula(params, [0.5, 0.5], 2) == "per_block with w = (0.5, 0.5), own weights in 1 blocks"


def test_a_training_in_words() -> None:
    curves = [[{"step": 50, "denoising": 0.5}, {"step": 1000, "denoising": 0.03125}], [{"step": 1000, "denoising": 1}]]
    assert ended(curves) == "denoising loss 0.0312, 1.0000 at step 1,000"
    assert ended([[]]) == "no loss was logged"


def test_the_gate_in_words() -> None:
    blocks = np.linspace(0.9, 1.1, 8)
    others = {"pretrained": np.stack([blocks, blocks]), "other": np.stack([blocks, blocks])}
    ranges = SimpleNamespace(N=2, range=lambda i: (0, i))
    table = compare_experts([blocks / 2, blocks * 2], others, others, ranges)
    assert winners(table) == "1 of 2 beat the base on their own range"
    assert winners(NOT_MEASURED) == "not measured"


def test_a_models_measures_in_words() -> None:
    measures = {"judges_train_change": -15.16, "judges_train_change_low": -24.6, "judges_train_change_high": -0.01}
    measures |= {
        "judges_train_worst": "a",
        "judge_a_train_change": 1.0,
        "frechet_train": 0.5,
        "frechet_train_pretrained": 1.0,
        "frechet_train_change": -0.5,
    }
    assert said(measures) == "-15.2 % [-24.6, +0.0] by all judges, -50.0 % by the search's own extractor"
    clip = {"clip_score": 29.123, "clip_score_low": 29.0, "clip_score_high": 29.5}
    assert said(clip) == "CLIP score 29.12 [29.00, 29.50]"
    assert said(clip | {"frechet": 13.4056}) == "CLIP score 29.12 [29.00, 29.50], Fréchet distance 13.41"
