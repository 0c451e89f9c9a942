"""What the report tells of a search: each trial against w = 0 on its seeds, worked by hand."""

import pytest
from conftest import search_result
from reported import TRIALS, searched

from deme_core.report.tables import first_changes, search_scores, weight_names
from deme_core.report.text import number


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
