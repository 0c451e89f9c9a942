"""The studies: their points, the interval over trainings and noise, and the reports by hand."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from dag_runs import ASKED
from study_rows import STUDIES, params_of, plan_of, rows_of

from deme_core.dag import dag
from deme_core.errors import InputError
from deme_core.metrics.intervals import crossed_interval
from deme_core.params import section
from deme_core.stage import run_params
from deme_core.training.settings import TrainingParams
from studies import run as runner

DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def test_the_interval_over_trainings_and_noise_by_hand() -> None:
    rows, columns = np.array([[0.0], [2.0], [4.0]]), np.array([[0.0, 3.0, 6.0, 9.0]])
    interval = crossed_interval(rows + columns)
    assert interval.value == pytest.approx(6.5)
    a, b = 4 / 3, 15 / 4  # variances of the row means over S = 3, of the column means over K = 4
    from scipy.stats import t

    degrees = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    assert interval.high - interval.value == pytest.approx(t.ppf(0.975, degrees) * (a + b) ** 0.5)
    two = crossed_interval(rows[:2] + columns)
    half = math.hypot(t.ppf(0.975, 1) * 1, t.ppf(0.975, 3) * b**0.5)  # of the row means of two: 2 / 2
    assert (two.value, two.high - two.value) == pytest.approx((5.5, half))
    assert crossed_interval(np.ones((2, 2))) == crossed_interval(np.ones((3, 4)))
    for wrong in (np.ones((1, 4)), np.ones((4, 1)), np.ones(4), np.array([[1.0, np.nan], [1.0, 1.0]])):
        with pytest.raises(ValueError):
            crossed_interval(wrong)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(("seed_luck", "noise"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 1.0)])
def test_the_interval_covers_the_luck_of_both(seed_luck: float, noise: float, seeds: int) -> None:
    """An interval over the 18 values as if independent covers 60 % where the luck of training dominates."""
    rng = np.random.default_rng(0)
    trials = 2000
    found = 0
    for _ in range(trials):
        values = rng.normal(0, seed_luck, (seeds, 1)) + rng.normal(0, noise, (1, 6)) + rng.normal(0, 0.3, (seeds, 6))
        interval = crossed_interval(values)
        found += interval.low <= 0 <= interval.high
    assert (0.94 if seeds == 2 else 0.92) <= found / trials <= 1


@pytest.mark.parametrize("jobs", ["0", "-3"])
def test_fewer_than_one_job_is_refused_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    (tmp_path / "table1.csv").write_text("experiment\n")
    monkeypatch.setattr(sys, "argv", ["run", "table1", "--jobs", jobs, "--again"])
    with pytest.raises(InputError, match=f"^--jobs {jobs}: at least one experiment runs at a time$"):
        runner.main()
    assert (tmp_path / "table1.csv").is_file()


@pytest.mark.parametrize("name", STUDIES)
def test_every_point_of_a_study_composes_to_params_that_hold(name: str) -> None:
    points = plan_of(name)
    assert len(set(points["seed"])) >= 3
    for overrides in points["overrides"]:
        params = params_of(tuple(overrides))
        top = run_params(params)
        section(params, "finetune_range", TrainingParams)
        assert params["dag"] == dag(
            top.N, top.baselines, draws=top.random_draws, directions=top.directions, analyses=params["analyses"]
        )
        assert set(STUDIES[name]["models"] or params["dag"]["models"]) <= set(params["dag"]["models"])
        made = {target.removeprefix("evaluate@") for target in STUDIES[name]["targets"]}
        assert made == set(STUDIES[name]["models"] or ()) or not made  # what is collected of a run was measured in it


def test_the_points_of_the_paper() -> None:
    sweep = plan_of("sensitivity")
    assert sorted(sweep.loc[sweep["curve"] == "p", "x"].unique()) == [0, 0.2, 0.4, 1]
    for curve, at in (("N", [1, 2, 4, 8]), ("N at equal total", [1, 4, 8])):
        assert sorted(sweep.loc[sweep["curve"] == curve, "x"].unique()) == at
    at_default = sweep[((sweep["curve"] == "p") & (sweep["x"] == 0.4)) | ((sweep["curve"] != "p") & (sweep["x"] == 4))]
    seeds = sweep["seed"].nunique()
    assert at_default["experiment"].nunique() == seeds, "one run serves all three curves"
    assert sweep["experiment"].nunique() == len(sweep) - 2 * seeds

    def total(overrides: list[str]) -> int:
        params = params_of(tuple(overrides))
        return params["N"] * params["finetune_range"]["iterations"]

    assert sweep.loc[sweep["curve"] == "N at equal total", "overrides"].map(total).nunique() == 1
    ablation = plan_of("ablation")
    assert ablation["overrides"].map(total).nunique() == 1
    assert list(ablation["row"].unique()) == [1, 2, 3, 4, 5, 6]
    controls = params_of(tuple(plan_of("table1")["overrides"][0]))
    assert {"full_range", "soup_full_range"} <= set(controls["baselines"])
    assert {"random1", "matched"} <= controls["dag"]["models"].keys()


def test_all_points_of_a_seed_come_before_those_of_the_next() -> None:
    for name in STUDIES:
        points = plan_of(name)
        assert list(points["seed"]) == sorted(points["seed"])
        assert len(points) == len(STUDIES[name]["seeds"]) * len(STUDIES[name]["points"])


def key_of(unused: list[str], *overrides: str) -> str:
    """The experiment of a study of one point and one seed."""
    study = {"seeds": [0], "common": [], "unused": unused, "points": [{"overrides": list(overrides)}]}
    (experiment,) = runner.plan(study, "x")["experiment"]
    return experiment


@pytest.mark.parametrize("change", ["merge_search.images=500", "merge_search.method=grid", "loss_matrix.draws=9"])
def test_a_section_that_a_study_does_not_use_leaves_its_points_measured(change: str) -> None:
    unused = [change.split(".")[0], "finetune_baseline"]
    assert key_of(unused, change) == key_of(unused)
    assert key_of([], change) != key_of([])
    for other in ("p=0.5", "N=2", "finetune_range.iterations=400", "sampler.steps=10", "baselines=core"):
        assert key_of(unused, change, other) != key_of(unused)


def test_the_section_of_a_direction_counts_where_it_is_asked_for() -> None:
    source, asked = "early.source=zoo/fashion-mnist-16-ddpm-early", "directions=[range,early]"
    assert key_of([], source) == key_of([])
    assert key_of([], source, asked) != key_of([], asked) != key_of([])


def test_a_point_is_known_on_a_machine_with_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    here, compose = key_of([]), runner.compose_params
    moved = ("base: zoo/digits-ddpm", "base: elsewhere")
    monkeypatch.setattr(runner, "compose_params", lambda overrides: compose(overrides).replace(*moved))
    assert moved[1] in runner.compose_params([])
    assert key_of([]) == here


# What a study reads


def stages_of(N: int) -> dict[str, dict[str, Any]]:
    """The stages of a run without baselines, their foreach spelled out."""
    stages = {}
    for name, stage in DAG.items():
        items = dag(N, [], directions=ASKED).get(stage.get("foreach", "")[6:-1], [None])  # of ${dag.x}
        for key, item in items.items() if isinstance(items, dict) else zip(items, items, strict=True):
            text = json.dumps(stage.get("do", stage)).replace("${N}", str(N))
            text = text.replace("${key}", str(key)).replace("${item}", str(item))
            for field in item if isinstance(item, dict) else ():
                text = text.replace(f"${{item.{field}}}", str(item[field]))
            stages[name if key is None else f"{name}@{key}"] = json.loads(text)
    return stages


def needed_by(targets: list[str], stages: dict[str, dict[str, Any]]) -> set[str]:
    """The targets, and all that they wait for."""
    outs = {
        name: [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
        for name, stage in stages.items()
    }
    found, todo = set[str](), list(targets)
    while todo:
        found.add(name := todo.pop())
        for dep in stages[name]["deps"]:
            within = lambda out, dep=f"{dep}/": dep.startswith(f"{out}/") or f"{out}/".startswith(dep)  # noqa: E731
            makers = (maker for maker, made in outs.items() if any(map(within, made)))
            todo += [maker for maker in makers if maker not in found]
    return found


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study["unused"]])
def test_what_a_study_does_not_use_is_a_section_that_its_stages_do_not_read(name: str) -> None:
    """But validate, which checks every section and changes no number."""
    study, stages = STUDIES[name], stages_of(4)
    assert set(study["unused"]) <= set(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    needed = needed_by(study["targets"], stages)
    trained = {"finetune_own@pretrained", "merge_away@pretrained"} if "away" in study["models"] else set()
    trained |= {"finetune_range@1", "task_vector@4", "merge_uniform"} if "merged_uniform" in study["models"] else set()
    assert trained and {"validate", "data"} | trained <= needed
    for stage in needed - {"validate"}:
        assert not set(stages[stage].get("params", [])) & set(study["unused"]), stage


# Runs


def test_what_was_measured_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = rows_of("ablation", {})
    rows.to_csv(tmp_path / "ablation.csv", index=False)
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "ablation"])
    calls: list[tuple[str, ...]] = []

    def command(*words: str) -> str:
        calls.append(words)
        if words[:2] == ("queue", "status"):
            return f"Task  Name  Created  Status\n1a  {missing}  12:00  Failed\n"
        return ""

    monkeypatch.setattr(runner, "command", command)
    missing = ""
    runner.main()
    assert calls == []
    assert (tmp_path / "ablation.md").is_file()

    missing = rows["experiment"].iloc[-1]
    rows[rows["experiment"] != missing].to_csv(tmp_path / "ablation.csv", index=False)
    with pytest.raises(runner.InputError, match=f"{missing} has failed; `dvc queue logs {missing}`"):
        runner.main()
    queued = [words for words in calls if words[:2] == ("exp", "run")]
    assert [words[4] for words in queued] == [missing]
    assert ("queue", "remove", missing) in calls
    assert "finetune_range.projection=released" in queued[0] and queued[0][-1] == "evaluate@merged_uniform"


def test_a_worker_that_ended_before_its_queue_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = rows_of("ablation", {})
    missing = rows["experiment"].iloc[-1]
    rows[rows["experiment"] != missing].to_csv(tmp_path / "ablation.csv", index=False)
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    monkeypatch.setattr(runner, "POLL", 0)
    monkeypatch.setattr(sys, "argv", ["run", "ablation", "--jobs", "2"])
    states = iter(["Queued", "Queued", "Running", "Queued", "Failed"])  # the first answer is to `queue`
    calls: list[tuple[str, ...]] = []

    def command(*words: str) -> str:
        calls.append(words[:2])
        status = words[:2] == ("queue", "status")
        return f"Task  Name  Created  Status\n1a  {missing}  12:00  {next(states)}\n" if status else ""

    monkeypatch.setattr(runner, "command", command)
    with pytest.raises(runner.InputError, match="has failed"):
        runner.main()
    look, begin = ("queue", "status"), ("queue", "start")
    assert calls == [look, begin, look, begin, look, look, begin, look]
