"""The studies: their points, the interval over trainings and noise, and the reports by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ASKED, REPOSITORY

from conf.compose import compose_params
from deme_core.dag import dag
from deme_core.metrics.intervals import block_interval, crossed_interval, t_interval
from deme_core.params import section
from deme_core.report.studies import REPORTS, curve_of, scores_of, write_report
from deme_core.report.verdicts import against
from deme_core.stage import run_params
from deme_core.training.settings import TrainingParams
from studies import run as runner

DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
STUDIES = {file.stem: yaml.safe_load(file.read_text()) for file in (REPOSITORY / "studies").glob("*.yaml")}


def rows_of(study: str, effect: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The plan of a study and made-up rows: `effect` of each model, another luck for each seed and each block."""
    points = runner.plan(STUDIES[study], study)
    rows = []
    for name, overrides, seed in (
        points[["experiment", "overrides", "seed"]].drop_duplicates("experiment").itertuples(index=False)
    ):
        params = yaml.safe_load(compose_params(overrides))
        for model in STUDIES[study]["models"] or params["dag"]["models"]:
            change = 0.0 if model == "pretrained" else effect.get(model, -0.01) + 0.001 * seed
            row: dict[str, Any] = {"experiment": name, "overrides": " ".join(overrides), "seed": seed, "model": model}
            row |= {"N": params["N"], "iterations": params["finetune_range"]["iterations"], "copy_rate": 0.35}
            row |= {"recall": 0.9, "parameters": 40489, "macs_per_step": 944640, "weights": "0 0 1 0"}
            row |= {"images": 1200, "seed_block": "EVALUATION", "seed_blocks": 6, "reference_images": 1437}
            row |= {"sampler_kind": "ddim", "sampler_steps": 20, "sampler_spacing": "uniform", "judges": "j-4567"}
            row |= {"sampler_dtype": "float32", "device": "cpu", "extractor": "x-0123", "copy_rate_real": 0.4}
            for part in ("train", "heldout"):
                for score, size in ((f"frechet_{part}", 1.0), (f"judge_a_{part}", 2.0), (f"judge_b_{part}", 5.0)):
                    noise = [1 + 0.1 * k + 0.005 * (k % 2) for k in range(6)]
                    row |= {f"{score}_block{k}": size * luck * (1 + change) for k, luck in enumerate(noise)}
            rows.append(row)
    return points, pd.DataFrame(rows)


def planned(points: pd.DataFrame) -> pd.Series:
    return points.groupby(curve_of(points))["seed"].nunique()


def test_the_interval_over_trainings_and_noise_by_hand() -> None:
    rows, columns = np.array([[0.0], [2.0]]), np.array([[0.0, 3.0, 6.0]])
    interval = crossed_interval(rows + columns)
    assert interval.value == pytest.approx(4)
    a, b = 2 / 2, 9 / 3  # variances of the row means over S = 2, of the column means over K = 3
    from scipy.stats import t

    degrees = (a + b) ** 2 / (a**2 / 1 + b**2 / 2)
    assert interval.high - interval.value == pytest.approx(t.ppf(0.975, degrees) * (a + b) ** 0.5)
    assert crossed_interval(np.ones((2, 2))) == crossed_interval(np.ones((3, 4)))
    for wrong in (np.ones((1, 4)), np.ones((4, 1)), np.ones(4), np.array([[1.0, np.nan], [1.0, 1.0]])):
        with pytest.raises(ValueError):
            crossed_interval(wrong)


@pytest.mark.parametrize(("seed_luck", "noise"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 1.0)])
def test_the_interval_covers_the_luck_of_both(seed_luck: float, noise: float) -> None:
    """An interval over the 18 values as if independent covers 60 % where the luck of training dominates."""
    rng = np.random.default_rng(0)
    trials = 2000
    found = 0
    for _ in range(trials):
        values = rng.normal(0, seed_luck, (3, 1)) + rng.normal(0, noise, (1, 6)) + rng.normal(0, 0.3, (3, 6))
        interval = crossed_interval(values)
        found += interval.low <= 0 <= interval.high
    assert 0.92 <= found / trials <= 0.999


@pytest.mark.parametrize("name", STUDIES)
def test_every_point_of_a_study_composes_to_params_that_hold(name: str) -> None:
    points = runner.plan(STUDIES[name], name)
    assert len(set(points["seed"])) >= 3
    for overrides in points["overrides"]:
        params = yaml.safe_load(compose_params(overrides))
        top = run_params(params)
        section(params, "finetune_range", TrainingParams)
        assert params["dag"] == dag(top.N, top.baselines, draws=top.random_draws, directions=top.directions)
        assert set(STUDIES[name]["models"] or params["dag"]["models"]) <= set(params["dag"]["models"])


def test_the_points_of_the_paper() -> None:
    sweep = runner.plan(STUDIES["sensitivity"], "sensitivity")
    assert sorted(sweep.loc[sweep["curve"] == "p", "x"].unique()) == [k / 10 for k in range(11)]
    for curve in ("N", "N at equal total"):
        assert sorted(sweep.loc[sweep["curve"] == curve, "x"].unique()) == [1, 2, 4, 8]
    at_default = sweep[((sweep["curve"] == "p") & (sweep["x"] == 0.4)) | ((sweep["curve"] != "p") & (sweep["x"] == 4))]
    seeds = sweep["seed"].nunique()
    assert at_default["experiment"].nunique() == seeds, "one run serves all three curves"
    assert sweep["experiment"].nunique() == len(sweep) - 2 * seeds

    def total(overrides: list[str]) -> int:
        params = yaml.safe_load(compose_params(overrides))
        return params["N"] * params["finetune_range"]["iterations"]

    assert sweep.loc[sweep["curve"] == "N at equal total", "overrides"].map(total).nunique() == 1
    ablation = runner.plan(STUDIES["ablation"], "ablation")
    assert ablation["overrides"].map(total).nunique() == 1
    assert list(ablation["row"].unique()) == [1, 2, 3, 4, 5, 6]
    controls = yaml.safe_load(compose_params(runner.plan(STUDIES["table1"], "table1")["overrides"][0]))
    assert {"full_range", "soup_full_range"} <= set(controls["baselines"])
    assert {"random1", "matched"} <= controls["dag"]["models"].keys()


def test_all_points_of_a_seed_come_before_those_of_the_next() -> None:
    for name in STUDIES:
        points = runner.plan(STUDIES[name], name)
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
            makers = (maker for maker, own in outs.items() if any(map(within, own)))
            todo += [maker for maker in makers if maker not in found]
    return found


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study["unused"]])
def test_what_a_study_does_not_use_is_a_section_that_its_stages_do_not_read(name: str) -> None:
    """But validate, which checks every section and changes no number."""
    study, stages = STUDIES[name], stages_of(4)
    assert set(study["unused"]) <= set(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    needed = needed_by(study["targets"], stages)
    assert {"validate", "data", "finetune_range@1", "task_vector@4", "merge_uniform"} <= needed
    for stage in needed - {"validate"}:
        assert not set(stages[stage].get("params", [])) & set(study["unused"]), stage


def test_several_trainings_are_judged_by_seed_and_block() -> None:
    """The change of a seed is the same on each block, however much the blocks differ."""
    points, rows = rows_of("table1", {"merged": -0.08})
    table = points.drop(columns="overrides").merge(rows.drop(columns="seed"), on="experiment")
    scores = scores_of(table.sample(frac=1, random_state=0))
    seeds = np.log1p(-0.08 + 0.001 * np.arange(5))
    ours, base = (np.asarray(scores[m]["judge_b_heldout"]) for m in ("merged", "pretrained"))
    np.testing.assert_allclose(np.log(ours / base), np.tile(seeds[:, None], 6), atol=1e-12)
    found = against(scores, "merged", "pretrained", "heldout")
    assert found.change.value == pytest.approx(100 * np.expm1(seeds.mean()))
    assert found.change.low < found.change.value < found.change.high < 0
    assert found.judges.keys() == {"a", "b"}
    assert found.better
    values = np.random.default_rng(0).normal(size=(3, 4))
    assert block_interval(values) == crossed_interval(values)
    assert block_interval(values[0]) == t_interval(values[0])


def test_table_1_says_whom_deme_beats(tmp_path: Path) -> None:
    effect = {"merged": -0.04, "neon": -0.04, "full_range": -0.01, "soup_full_range+scale": -0.08, "random1": -0.02}
    points, rows = rows_of("table1", effect)
    wild = rows["model"] == "soup_full_range"  # from seed to seed on both sides of DeMe
    factors = rows.loc[wild, "seed"].astype(int).map({0: 0.8, 1: 1.0, 2: 1.01, 3: 0.95, 4: 1.3})
    for column in [column for column in rows if column[-1].isdigit()]:
        rows.loc[wild, column] *= factors
    write_report("table1", "contest", points, rows, tmp_path, planned(points))
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    lines = {line[2:].split(":")[0]: line for line in text.splitlines() if line.startswith("- ")}
    assert lines["baselines, better than"].endswith("full-range finetune, full-range finetune, searched scale")
    assert lines["baselines, worse than"].endswith(": soup of N full-range finetunes, searched scale")
    assert lines["baselines, no difference shown to"].endswith(": soup of N full-range finetunes")
    assert lines["random vectors, better than"].endswith(": random vectors, searched w (draw 1)")
    assert "**holds**, −3.8 % [" in lines["merged with searched w better than base"]
    best = "merged better than the best baseline, soup of N full-range finetunes, searched scale"
    assert "**the opposite is shown**, +4." in lines[best]
    assert "**the opposite is shown**, +4." in lines[best.replace("merged", "neon", 1)]
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| full-range finetune |")]
    assert (
        cells[0][1].startswith("−0.8 % [")
        and cells[0][-1] == "no gain: random vectors, searched w (draw 1) reached it |"
    )
    assert cells[1][1] == "−1.0, −0.9, −0.8, −0.7, −0.6" and "3,200" in cells[1] and "40,489" in cells[1]
    assert (tmp_path / "table1.png").stat().st_size > 10_000


def test_a_search_that_kept_0_is_said_to_have_given_the_base(tmp_path: Path) -> None:
    points, rows = rows_of("fashion_mnist_10", {"neon": -0.3})
    columns = [column for column in rows if column[-1].isdigit()]
    base = rows[rows["model"] == "pretrained"].set_index("experiment")[columns]
    kept = rows["model"] == "merged"
    rows.loc[kept, columns] = base.loc[rows.loc[kept, "experiment"]].to_numpy()
    write_report("fashion_mnist_10", "contest", points, rows, tmp_path, planned(points))
    text = (tmp_path / "fashion_mnist_10.md").read_text(encoding="utf-8")
    assert "- merged with searched w better than base: **not shown**, they are the same model" in text
    assert next(line for line in text.splitlines() if line.startswith("| DeMe merged, searched w |")).endswith(
        "| the base itself | the base itself |"
    )
    assert "neon better than base: **holds**" in text


def test_the_ablation_names_what_each_row_has(tmp_path: Path) -> None:
    points, rows = rows_of("ablation", {"ensemble": -0.04})
    write_report("ablation", "ablation", points, rows, tmp_path, planned(points))
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[:4] for row in table] == [
        ["1 × 3,200", "—", "no", "no"], ["1 × 3,200", "—", "no", "foldable"], ["8 × 400", "yes", "no", "no"],
        ["8 × 400", "yes", "yes", "no"], ["8 × 400", "yes", "yes", "foldable"], ["8 × 400", "yes", "yes", "released"],
    ]  # fmt: skip
    assert [row[6] for row in table] == ["4.40", "4.45", "4.32", "4.27", "3.87", "—"]
    assert all(row[4].startswith("**−3.9 % [") for row in table), [row[4] for row in table]


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    study = next(name for name in STUDIES if STUDIES[name]["report"] == kind)
    points, rows = rows_of(study, {})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_report(study, kind, points, rows, tmp_path / name, planned(points))
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == sorted({"ablation": ["ablation.md"]}.get(study, [f"{study}.md", f"{study}.png"]))
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_report_is_drawn_over_whole_seeds_as_soon_as_there_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, rows = rows_of("ablation", {"ensemble": -0.04})
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    seeds = rows["experiment"].map(points.set_index("experiment")["seed"])
    last = points.loc[points["seed"] == 2, "experiment"].iloc[-1]
    runner.draw("ablation", "ablation", points, rows[seeds == 0])
    assert not (tmp_path / "ablation.md").exists()
    runner.draw("ablation", "ablation", points, rows[rows["experiment"] != last])
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "over 2 training seeds" in text and "**Not finished: 2 of 3 training seeds so far.**" in text
    runner.draw("ablation", "ablation", points, rows)
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "over 3 training seeds" in text and "Not finished" not in text


def test_a_curve_is_drawn_over_the_seeds_that_it_has_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seed 2 the points of p are there, of seeds 1 and 2 one point of N is not, nor of its equal total any."""
    points, rows = rows_of("sensitivity", {"ensemble": -0.04})
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    late = points[(points["curve"] == "N") & (points["x"] == 8) & (points["seed"] > 0)]
    never = points[(points["curve"] == "N at equal total") & (points["x"] == 8)]
    gone = [*late["experiment"], *never["experiment"]]
    runner.draw("sensitivity", "sensitivity", points, rows[~rows["experiment"].isin(gone)])
    text = (tmp_path / "sensitivity.md").read_text(encoding="utf-8")
    assert "**Not finished: N 0 of 3, N at equal total 0 of 3 training seeds so far.**" in text  # one alone is none
    assert sum(line.startswith("| p |") for line in text.splitlines()) == 11
    assert "| N |" not in text
    runner.draw("sensitivity", "sensitivity", points, rows[~rows["experiment"].isin(late["experiment"].iloc[1:])])
    text = (tmp_path / "sensitivity.md").read_text(encoding="utf-8")
    assert "**Not finished: N 2 of 3 training seeds so far.**" in text
    assert sum(line.startswith("| N |") for line in text.splitlines()) == 4


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
