"""The report of a study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_rows import STUDIES, plan_of, rows_of

from deme_core.errors import InputError
from deme_core.metrics.intervals import block_interval, crossed_interval, t_interval
from deme_core.report.claims import claims
from deme_core.report.studies import REPORTS, curve_of, write_report
from deme_core.report.training_seeds import scores_of
from deme_core.report.verdicts import against
from studies import run as runner


def planned(points: pd.DataFrame) -> pd.Series:
    return points.groupby(curve_of(points))["seed"].nunique()


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
    effect = {"merged": -0.04, "away": -0.04, "neon": -0.04}
    effect |= {"full_range": -0.01, "soup_full_range+scale": -0.08, "random1": -0.02}
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
    for step in ("away", "neon"):
        assert "**the opposite is shown**, +4." in lines[best.replace("merged", step, 1)]
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


def test_models_of_another_study_stand_in_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    study = STUDIES["fashion_mnist_10"]
    ((other, models),) = study["beside"].items()
    lent = rows_of(other, {"merged_uniform": -0.25})
    points, rows = rows_of("fashion_mnist_10", {"merged_uniform": -0.04, "neon": -0.3})
    runner.draw(other, STUDIES[other], lent[0], lent[1].drop(columns="weights"))
    alone = (tmp_path / f"{other}.md").read_text(encoding="utf-8")
    assert "DeMe merged, w = 1/N, against each model" in alone and "Weights of" not in alone
    for there in (False, True):  # without the other's rows the study stands alone
        runner.draw("fashion_mnist_10", study, points, rows)
        text = (tmp_path / "fashion_mnist_10.md").read_text(encoding="utf-8")
        assert ("| soup of N full-range finetunes | −2" in text) == there
        lent[1].to_csv(tmp_path / f"{other}.csv", index=False)
    assert (
        models == {"merged_uniform": "soup_full_range"}
        and "N full-range finetunes: **the opposite is shown**, +2" in text
    )
    assert "best baseline, soup of N full-range finetunes: **holds**, −6" in text
    page = (tmp_path / "fashion_mnist_10.html").read_text(encoding="utf-8")
    judged = text.partition("| model |")[2].partition("\n\n")[0].splitlines()[2:]
    assert page.count('class="said"') == len(judged)  # a bar for each model


def test_a_model_that_lacks_a_training_is_not_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    rows = rows_of("table1", {})[1]
    rows[(rows["model"] != "soup_full_range") | (rows["seed"] < 1)].to_csv(tmp_path / "table1.csv", index=False)
    points = plan_of("away").assign(seed=rows["seed"].unique())
    (lent,) = runner.borrowed({"table1": {"soup_full_range": "soup", "merged": "merged"}}, points)
    assert set(lent["model"]) == {"merged"}


@pytest.mark.parametrize(("column", "value"), [("sampler_steps", 50), ("judges", "j-other"), ("images", 600)])
def test_models_of_another_protocol_are_not_compared(tmp_path: Path, column: str, value: object) -> None:
    points, rows = rows_of("table1", {})
    rows[column] = rows[column].where(rows["model"] != "random1", value)
    with pytest.raises(InputError, match=rf"{column}: .*{value} \(random1\); a study compares models by one protocol"):
        write_report("table1", "contest", points, rows, tmp_path, planned(points))
    assert not (tmp_path / "table1.md").exists()


def test_a_claim_is_held_against_each_draw_of_the_null() -> None:
    points, rows = rows_of("table1", {"neon": -0.1, "random1": -0.01})
    second = rows[rows["model"] == "neon"].assign(model="random2")
    table = points.drop(columns="overrides").merge(pd.concat([rows, second]).drop(columns="seed"), on="experiment")
    lines = [line for line in claims(scores_of(table)).splitlines() if line.startswith("- neon better than random")]
    assert [line.split(":")[0] for line in lines] == [
        f"- neon better than random vectors, searched alike (draw {k})" for k in (1, 2)
    ]
    assert "**holds**" in lines[0] and "**not shown**" in lines[1]


def test_trainings_on_own_samples_stand_beside_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    rows_of("table1", {"away": -0.1, "neon": -0.1})[1].to_csv(tmp_path / "table1.csv", index=False)
    lent = rows_of("own_copies", {"away": -0.2, "neon": -0.2})
    lent[1].to_csv(tmp_path / "own_copies.csv", index=False)
    points, rows = rows_of("own_ranges", {"away": -0.15, "neon": -0.15})
    rows["own_trainings"] = 4  # which rows of table1 do not say
    runner.draw("own_ranges", STUDIES["own_ranges"], points, rows[rows["seed"] == 0])
    assert not (tmp_path / "own_ranges.md").exists()  # what others measured of the other seeds does not count
    runner.draw("own_ranges", STUDIES["own_ranges"], points, rows)
    text = (tmp_path / "own_ranges.md").read_text(encoding="utf-8")
    lines = {line[2:].split(":")[0]: line for line in text.splitlines() if line.startswith("- ")}
    for step in ("away", "neon"):
        assert "**holds**, −14" in lines[f"{step} by ranges better than base"]
        assert "**holds**, −5." in lines[f"{step} by ranges better than one training of the full range"]
        assert "**holds**, −14" in lines[f"{step} by ranges better than brightness and contrast alone"]
        opposite = lines[f"{step} by ranges better than as many trainings of the full range"]
        assert "**the opposite is shown**, +6" in opposite
        assert f"{step} better than base" in lines
    assert lines["other trainings on own samples, worse than"].count("away from own samples") == 4
    assert not [claim for claim in lines if "best baseline" in claim]  # nor is any of them a baseline
    name = "away from own samples, no search"
    assert f"| {name}, several trainings by ranges |" in text
    measures = [line.split(" | ") for line in text.partition("Seed by seed")[2].splitlines()]
    steps = {cells[0].removeprefix("| "): cells[5] for cells in measures if len(cells) > 5}
    assert (steps[name], steps[f"{name}, several trainings by ranges"]) == ("800", "4 × 200")
    assert "Every search had as many images as DeMe's" in text

    runner.draw("own_copies", STUDIES["own_copies"], *lent)
    led = (tmp_path / "own_copies.md").read_text(encoding="utf-8")
    # which leads where no other does
    assert f"{name}, several trainings of the full range, on the training part" in led
    lent[1][lent[1]["seed"] < 3].to_csv(tmp_path / "own_copies.csv", index=False)
    runner.draw("own_ranges", STUDIES["own_ranges"], points, rows)  # beside a study that is not done
    text = (tmp_path / "own_ranges.md").read_text(encoding="utf-8")
    assert "several trainings of the full range" not in text and "several trainings by ranges" in text

    set_lengths = rows_of("fashion_mnist_own_ranges_20", {"away": -0.15})
    set_lengths[1].loc[set_lengths[1]["model"] == "pretrained", "weights"] = None
    runner.draw("fashion_mnist_own_ranges_20", STUDIES["fashion_mnist_own_ranges_20"], *set_lengths)
    alone = (tmp_path / "fashion_mnist_own_ranges_20.md").read_text(encoding="utf-8")
    assert "several trainings by ranges" in alone and "Every search" not in alone  # none was searched


def test_the_ablation_names_what_each_row_has(tmp_path: Path) -> None:
    points, rows = rows_of("ablation", {"ensemble": -0.04})
    scores = [column for column in rows if "judge_" in column]
    consistent = rows["experiment"].isin(points.loc[points["row"] >= 4, "experiment"])
    rows.loc[consistent & (rows["model"] == "merged_uniform"), scores] *= 0.9
    write_report("ablation", "ablation", points, rows, tmp_path, planned(points))
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    table, beside = lines[2:8], lines[10:]
    assert [row[:4] for row in table] == [
        ["1 × 3,200", "—", "no", "no"], ["1 × 3,200", "—", "no", "foldable"], ["8 × 400", "yes", "no", "no"],
        ["8 × 400", "yes", "yes", "no"], ["8 × 400", "yes", "yes", "foldable"], ["8 × 400", "yes", "yes", "released"],
    ]  # fmt: skip
    assert [row[6] for row in table] == ["4.40", "4.45", "4.32", "4.27", "3.87", "—"]
    assert all(row[4].startswith("**−3.9 % [") for row in table), [row[4] for row in table]
    assert [row[:3] for row in beside] == [
        ["projection: foldable", "no", "1 range, consistency loss: no"],
        ["8 ranges", "1 range", "consistency loss: no, projection: no"],
        ["consistency loss: yes", "no", "8 ranges, projection: no"],
        ["projection: foldable", "no", "8 ranges, consistency loss: yes"],
        ["projection: released", "foldable", "8 ranges, consistency loss: yes"],
    ]
    same, gained = "+0.0 % [+0.0, +0.0]<br>(+0.0, +0.0, +0.0)", "**−10.0 % [−10.0, −10.0]**<br>(−10.0, −10.0, −10.0)"
    assert [row[3] for row in beside] == [same] * 5
    assert [row[4] for row in beside] == [same, same, gained, same, same]


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    study = next(name for name in STUDIES if STUDIES[name]["report"] == kind)
    points, rows = rows_of(study, {})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_report(study, kind, points, rows, tmp_path / name, planned(points))
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    pictures = [] if kind == "ablation" else [f"{study}.png"]
    assert files == sorted([f"{study}.html", f"{study}.md", *pictures])
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_report_is_drawn_over_whole_seeds_as_soon_as_there_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, rows = rows_of("ablation", {"ensemble": -0.04})
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    seeds = rows["experiment"].map(points.set_index("experiment")["seed"])
    last = points.loc[points["seed"] == 2, "experiment"].iloc[-1]
    runner.draw("ablation", {"report": "ablation"}, points, rows[seeds == 0])
    assert not (tmp_path / "ablation.md").exists()
    runner.draw("ablation", {"report": "ablation"}, points, rows[rows["experiment"] != last])
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "over 2 training seeds" in text and "**Not finished: 2 of 3 training seeds so far.**" in text
    runner.draw("ablation", {"report": "ablation"}, points, rows)
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "over 3 training seeds" in text and "Not finished" not in text


def test_a_curve_is_drawn_over_the_seeds_that_it_has_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seed 2 the points of p are there, of seeds 1 and 2 one point of N is not, nor of its equal total any."""
    points, rows = rows_of("sensitivity", {"ensemble": -0.04})
    monkeypatch.setattr(runner, "REPORTS", tmp_path)
    late = points[(points["curve"] == "N") & (points["x"] == 8) & (points["seed"] > 0)]
    never = points[(points["curve"] == "N at equal total") & (points["x"] == 8)]
    gone = [*late["experiment"], *never["experiment"]]
    runner.draw("sensitivity", {"report": "sensitivity"}, points, rows[~rows["experiment"].isin(gone)])
    text = (tmp_path / "sensitivity.md").read_text(encoding="utf-8")
    assert "**Not finished: N 0 of 3, N at equal total 0 of 3 training seeds so far.**" in text  # one alone is none
    assert sum(line.startswith("| p |") for line in text.splitlines()) == 4
    assert "| N |" not in text
    runner.draw(
        "sensitivity", {"report": "sensitivity"}, points, rows[~rows["experiment"].isin(late["experiment"].iloc[1:])]
    )
    text = (tmp_path / "sensitivity.md").read_text(encoding="utf-8")
    assert "**Not finished: N 2 of 3 training seeds so far.**" in text
    assert sum(line.startswith("| N |") for line in text.splitlines()) == 4
