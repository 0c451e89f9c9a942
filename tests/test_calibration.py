"""Calibration: within the tolerance it is said, beyond it is warned, and without a figure nothing is compared."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from deme_core.errors import InputError
from deme_core.metrics.calibration import CalibrateParams, calibrate
from deme_core.stage import run

METRICS = {"frechet_train": 4.5, "kid_train": 0.01, "images": 50000, "extractor": "x"}


def params(**changes: Any) -> CalibrateParams:
    return CalibrateParams(**{"value": 4.42, "source": "Ma et al.", "tolerance": 0.05} | changes)


def test_a_base_within_the_tolerance_reproduces() -> None:
    result = calibrate(METRICS, params())
    assert result["reproduces"] is True
    assert result["message"] == (
        "Calibration: the pretrained model's frechet_train is 4.5 under this protocol, the published figure is 4.42"
        " (Ma et al.): +1.8 %, tolerance 5 %."
    )


@pytest.mark.parametrize(("value", "change"), [(10.69, "-57.9 %"), (3.0, "+50.0 %")])
def test_a_base_beyond_it_is_warned_of_in_both_directions(value: float, change: str) -> None:
    result = calibrate(METRICS, params(value=value))
    assert result["reproduces"] is False
    assert result["message"].startswith(
        "**Warning: the base does not reproduce.** The pretrained model's frechet_train"
    )
    assert change in result["message"]
    assert "\n" not in result["message"]


def test_without_a_figure_nothing_is_compared() -> None:
    assert calibrate({}, params(value=None, source=None)) == {"reproduces": None, "message": None}


def test_a_metric_that_has_no_corrected_value_is_calibrated() -> None:
    without = {f"frechet_train_{end}": None for end in ("corrected", "low", "high")}
    assert calibrate(METRICS | without, params()) == calibrate(METRICS, params())


@pytest.mark.parametrize("metric", ["frechet", "images", "extractor"])
def test_a_metric_that_is_none_is_named_with_the_known_ones(metric: str) -> None:
    with pytest.raises(InputError, match=rf"calibrate\.metric = '{metric}': .*known are frechet_train, kid_train$"):
        calibrate(METRICS, params(metric=metric))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 0.0}, r"calibrate\.value = 0\.0: must be null or above 0"),
        ({"value": float("nan")}, r"calibrate\.value = nan"),
        ({"source": None}, r"calibrate\.source = None: names who published"),
        ({"value": None}, r"calibrate\.source = 'Ma et al\.': .*give both or neither"),
        ({"tolerance": 0.0}, r"calibrate\.tolerance = 0\.0: must lie in \(0, 1\)"),
        ({"tolerance": 5.0}, r"calibrate\.tolerance = 5\.0"),
    ],
)
def test_params_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        params(**change)


def test_the_stage_writes_the_comparison_and_says_it_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = {"metric": "frechet_train", "value": 10.69, "source": "Ma et al.", "tolerance": 0.05}
    Path("params.yaml").write_text(json.dumps({"calibrate": section}))
    Path("pretrained.json").write_text(json.dumps(METRICS))
    monkeypatch.syspath_prepend(REPOSITORY / "stages")
    sys.modules.pop("calibrate", None)
    monkeypatch.setattr(sys, "argv", ["calibrate", "--metrics", "pretrained.json", "--out", "reports/calibration.json"])
    run(__import__("calibrate").main)
    written = json.loads(Path("reports/calibration.json").read_text())
    assert written == calibrate(METRICS, params(value=10.69))
    assert "Warning: the base does not reproduce" in capsys.readouterr().out


def test_the_search_waits_for_the_calibration() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert "reports/calibration.json" in stages["merge_search"]["deps"]
    assert "reports/calibration.json" in stages["report"]["deps"]
