"""The log of a search: no trial is run twice, and none is lost to a kill."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import python
from searching import ALL, OPTIMUM, STEPS, Counted, quadratic, search_params, searched, space_of

from deme_core.search.search import search
from deme_core.search.trials import Trial, TrialLog


@pytest.mark.parametrize("score", [0.5, np.float64(0.5), torch.tensor(0.5)])
def test_a_score_of_any_kind_of_number_is_read_again(tmp_path: Path, score: Any) -> None:
    log = TrialLog(tmp_path / "trials.csv", 1)
    assert log.score(Trial("search", 0, 10, (0.1,)), lambda: score) == 0.5
    assert TrialLog(tmp_path / "trials.csv", 1).scores == log.scores


def test_a_logged_trial_is_never_run_again(tmp_path: Path) -> None:
    for method in ALL:
        first, *_ = searched(tmp_path / method, quadratic(OPTIMUM), 3, method=method, budget=120)
        again, objective, forwards = searched(tmp_path / method, quadratic(OPTIMUM), 3, method=method, budget=120)
        assert (again, objective.calls, forwards.calls) == (first, [], []), method


@pytest.mark.parametrize("method", ALL)
def test_a_killed_search_goes_on_to_the_same_result_and_the_same_bytes(tmp_path: Path, method: str) -> None:
    """No score is asked for again, nor is a slope that was sampled."""
    params = search_params(method=method, budget=120)
    space = space_of(params, 3)
    whole, calls, slopes = Counted(quadratic(OPTIMUM)), [], []
    log = TrialLog(tmp_path / "whole.csv", 3)
    expected = search(whole, whole, 3, params, log, STEPS, space=space, slope=whole.gradient)  # type: ignore[arg-type]
    for stop_at in (0, 4, 1, 5, None):
        part = Counted(quadratic(OPTIMUM), stop_at)
        try:
            log = TrialLog(tmp_path / "trials.csv", 3)
            result = search(part, part, 3, params, log, STEPS, space=space, slope=part.gradient)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            assert stop_at is not None
        calls += part.calls
        slopes += part.slopes
    assert (calls, slopes) == (whole.calls, whole.slopes)
    assert bool(slopes) == (method == "gradient")
    assert result == expected
    assert (tmp_path / "trials.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import searching as t
score, calls = t.quadratic(t.OPTIMUM), []
def killed(*asked):
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(asked)
    return score(*asked)
t.searched(Path(sys.argv[1]), killed, 3)
"""


def test_a_search_loses_no_trial_to_sigkill(tmp_path: Path) -> None:
    expected, whole, _ = searched(tmp_path / "whole", quadratic(OPTIMUM), 3)
    killed = python(KILLED, tmp_path / "killed", PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    assert killed.returncode == -9, killed.stderr
    result, rest, _ = searched(tmp_path / "killed", quadratic(OPTIMUM), 3)
    assert result == expected
    assert rest.calls == whole.calls[4:]


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_cut_last_line_is_run_again_and_no_other(tmp_path: Path, cut: int) -> None:
    _, whole, _ = searched(tmp_path, quadratic(OPTIMUM), 3)
    text = (tmp_path / "trials.csv").read_text()
    (tmp_path / "trials.csv").write_text(text[:-cut])
    _, objective, _ = searched(tmp_path, quadratic(OPTIMUM), 3)
    assert objective.calls == whole.calls[-1:]
    assert (tmp_path / "trials.csv").read_text() == text


@pytest.mark.parametrize("cut", [0, 1, 9])
@pytest.mark.parametrize("log", [True, False])
def test_a_cut_slope_is_sampled_again_and_no_other(tmp_path: Path, cut: int, log: bool) -> None:
    asked: dict[str, Any] = {"method": "gradient", "budget": 200}
    first, whole, _ = searched(tmp_path, quadratic(OPTIMUM), 3, **asked)
    slopes = tmp_path / "trials.slopes.jsonl"
    text = slopes.read_text()
    slopes.write_text(text[: len(text) - cut])
    if not log:
        (tmp_path / "trials.csv").unlink()
    again, objective, _ = searched(tmp_path, quadratic(OPTIMUM), 3, **asked)
    assert objective.slopes == (whole.slopes[-1:] if cut else [])
    assert (again, slopes.read_text()) == (first, text)


@pytest.mark.parametrize(
    "text", ["", "round,ima", "round,first,images,w1,w2,score", "round,first,images,w1,w2,score\n"]
)
def test_a_log_cut_in_its_header_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials.csv").write_text(text)
    log = TrialLog(tmp_path / "trials.csv", 2)
    assert log.scores == {}
    log.score(Trial("search", 0, 10, (0.1, 1 / 3)), lambda: 2 / 3)
    assert (tmp_path / "trials.csv").read_text() == (
        "round,first,images,w1,w2,score\nsearch,0,10,0.1,0.3333333333333333,0.6666666666666666\n"
    )
    assert TrialLog(tmp_path / "trials.csv", 2).scores == log.scores


def test_a_trial_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    seen = []

    def objective(*_: Any) -> float:
        seen.append(len((tmp_path / "trials.csv").read_text().splitlines()))
        return 1.0

    searched(tmp_path, objective, 2)
    assert seen == list(range(1, len(seen) + 1))


def test_the_export_holds_the_trials_of_this_search_alone(tmp_path: Path) -> None:
    searched(tmp_path, quadratic((0.0, 0.0)), 2, values=(0.75, 1.0))
    log, score = TrialLog(tmp_path / "trials.csv", 2), Counted(quadratic((0.0, 0.0)))
    search(score, score, 2, search_params(), log, STEPS)  # type: ignore[arg-type]
    log.export(tmp_path / "out" / "trials.csv")
    searched(tmp_path / "fresh", quadratic((0.0, 0.0)), 2)
    assert (tmp_path / "out" / "trials.csv").read_text() == (tmp_path / "fresh" / "trials.csv").read_text()
    assert len(log.scores) > len(log.used)
