"""What `dvc metrics show` prints."""

import pytest

from deme_core.metrics.headline import headline

MEASURES = {
    "frechet_train": 0.75, "frechet_train_pretrained": 1.2, "frechet_train_change": -0.3, "judges_train_change": -18.3,
    "judges_train_change_low": -23.6, "judges_train_change_high": -12.7, "judges_train_worst": "code",
    "judge_code_train_change": -11.9, "judge_place_train_change": -28.1, "images": 12000,
}  # fmt: skip


def test_a_model_has_its_change_the_worst_judge_and_the_distance_that_was_searched() -> None:
    found = headline(MEASURES)
    assert found == {
        "change": -18.3, "low": -23.6, "high": -12.7, "worst": -11.9, "frechet": 0.75,
        "frechet_change": pytest.approx(-25.0),
    }  # fmt: skip


def test_a_prompt_set_has_its_clip_score() -> None:
    clip = {"clip_score": 73.8, "clip_score_low": 73.1, "clip_score_high": 74.4, "images": 100}
    assert headline(clip) == {"clip": 73.8, "low": 73.1, "high": 74.4}
    assert headline(clip | {"frechet": 3.1})["frechet"] == 3.1


def test_the_table_fits_a_terminal() -> None:
    """DVC pads each column to its widest cell with two blanks, and prints five digits."""
    names = "metrics/soup_full_range+scale.json"
    assert len(names) + sum(2 + max(len(name), len("-18.345")) for name in headline(MEASURES)) <= 140
