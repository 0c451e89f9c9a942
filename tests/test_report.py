"""The report's tables and page: verdicts, intervals and training steps, worked by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reported import all_metrics, metrics, searched, table_of

from deme_core.dag import BASELINES, DEME, OWN, dag
from deme_core.errors import InputError
from deme_core.metrics.intervals import uncovered
from deme_core.report.tables import page, read_metrics, read_scores, results, search_scores, training_steps, verdict
from deme_core.report.text import MODELS, model_name


def test_the_full_table_shows_how_well_a_classifier_tells_samples_from_real_images(tmp_path: Path) -> None:
    told = {"c2st": 0.6123, "c2st_low": 0.6, "c2st_high": 0.63, "c2st_real": 0.5049}
    trials, result = searched(tmp_path, 2)
    text = page("toy", table_of(**told), trials, result, {})
    assert "| C2ST: AUC, all judges<br>± 95 % |" in text
    assert "| 0.612 ± 0.015<br>(real 0.505) |" in text
    assert "C2ST: area under the ROC curve" in text
    del told["c2st_real"]
    assert "| 0.612 ± 0.015 |" in page("toy", table_of(**told), trials, result, {})
    assert "C2ST" not in page("toy", table_of(), trials, result, {})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.3, 0.1, "no diff"), (-0.3, 0, "no diff"), (0, 0, "no diff")],
)
def test_verdict(low, high, expected):
    assert verdict(low, high).startswith(expected)


def test_results_by_hand(tmp_path):
    table = table_of()
    assert list(table.index) == ["pretrained", *DEME]
    assert list(table["name"]) == [MODELS[model] for model in table.index]
    assert list(table["steps"]) == ["—", "2 × 800", "2 × 800", "2 × 800"]
    assert not [column for column in table if "baseline" in column]
    np.testing.assert_allclose(table["frechet_train_change_percent"], [0, -25, 50, -12.5])
    shown = ["base", "better than pretrained", "worse than pretrained", "no difference shown"]
    assert list(table["frechet_train_verdict"]) == shown
    assert list(table["frechet_heldout_verdict"]) == [shown[0], shown[2], shown[1], shown[3]]
    table.to_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv", index_col="model"), table, check_dtype=False)


def test_page_by_hand(tmp_path):
    trials, result = searched(tmp_path, 2)
    text = page("toy", table_of(), trials, result, {"samples.png": "A caption."})
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    found = [sum(row.startswith(f"| {name} |") for row in rows) for name in MODELS.values()]
    assert found == [1, 1, 1, 1] + [0] * (len(MODELS) - 4)
    ensemble = next(row for row in rows if "ensemble" in row).strip("| ").split(" | ")
    assert ensemble[1:3] == ["0.8000<br>0.5000 [0.2500, 0.7500]", "−0.2000 [−0.3000, −0.1000]<br>(−25.0 %)"]
    assert ensemble[4:] == [
        "+0.2000 [+0.1000, +0.3000]<br>(+25.0 %)", "4.000 ± 1.000", "25.0 %<br>(real 40.5 %)", "2 × 800", "634,273",
        "15,003,648",
    ]  # fmt: skip
    assert "in 10⁻³" in rows[0]
    protocol = next(line for line in lines if line.startswith("Protocol"))
    for fact in ("1,200 images", "EVALUATION", "6 blocks of 200", "ddim, 20 steps, uniform", "`x-0123`", "1,437"):
        assert fact in protocol
    better, worse = "better than pretrained on the training part", "worse than pretrained on the held-out part"
    assert f"- {MODELS['ensemble']}: {better}; {worse}" in lines
    assert lines[-3:] == ["![samples](samples.png)", "", "A caption."]
    assert "kept w = 0" not in text
    assert "baseline" not in text
    assert f"## Merge search: grid, {result.trials} trials" in lines
    start = lines.index("| " + " | ".join([
        "weights", "w", "change, first round<br>50 images a trial", "change, fresh seeds<br>4 × 100 images", "gap",
        "score, fresh",
    ]) + " |")  # fmt: skip
    assert lines[start + 2 : start + 5] == [f"| {' | '.join(row)} |" for row in search_scores(trials, result)]
    assert "objective `frechet`, distances to the training part" in text
    assert f"Images sampled in all: {50 * result.trials + 400 * 4:,}." in text  # w = 0, w = 1/N and two more
    assert "kept w = 0" in page("toy", table_of(), trials, replace(result, weights=[0.0, 0.0]), {})


def test_without_held_out_part_and_with_a_large_kid(tmp_path):
    table = table_of(heldout=False, kid_train=0.5, kid_train_low=0.25, kid_train_high=0.75)
    text = page("toy", table, *searched(tmp_path, 1), {})
    assert "held-out part" not in text and "10⁻³" not in text and "| 0.5000 ± 0.2500 | 25.0 % |" in text


def test_without_corrected_values_the_page_says_why(tmp_path):
    none = {f"frechet_{part}_{end}": None for part in ("train", "heldout") for end in ("corrected", "low", "high")}
    for model, values in all_metrics(**none, feature_count=512).items():
        (tmp_path / f"{model}.json").write_text(json.dumps(values))
    table = results(read_metrics(tmp_path, all_metrics()), 2, 800)
    text = page("toy", table, *searched(tmp_path / "search", 2), {})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "Fréchet distance, training part<br>plain |" in rows[0] and "jackknife" not in text
    ensemble = next(row for row in rows if "ensemble" in row).strip("| ").split(" | ")
    assert ensemble[1:3] == ["0.8000", "−0.2000 [−0.3000, −0.1000]<br>(−25.0 %)"]
    assert text.count(uncovered(1200, 512, 6)) == 1
    assert "nan" not in text.lower() and "none" not in text.lower().replace("none is widened", "")
    table.to_csv(tmp_path / "results.csv")
    read = pd.read_csv(tmp_path / "results.csv", index_col="model")
    assert read[list(none)].isna().all(axis=None) and read["frechet_train_change"].notna().all()


def test_the_page_of_a_search_on_the_loss_says_that_nothing_was_sampled(tmp_path):
    text = page("toy", table_of(), *searched(tmp_path, 2, "loss"), {})
    assert "change, first round<br>none sampled" in text
    assert "| searched | 0.2, 0.6 | — | " in text


def test_mistakes_are_named(tmp_path):
    for model, values in all_metrics().items():
        (tmp_path / f"{model}.json").write_text(json.dumps(values))
    (tmp_path / "full_range.json").write_text("left over from a run with baselines")
    assert read_metrics(tmp_path, all_metrics()) == all_metrics()
    (tmp_path / "merged_uniform.json").unlink()
    with pytest.raises(InputError, match=r"merged_uniform\.json: no such file; `dvc repro evaluate@merged_uniform`"):
        read_metrics(tmp_path, all_metrics())
    with pytest.raises(InputError, match=r"merged was measured with sampler_steps = 50, pretrained with 20"):
        results(all_metrics() | {"merged": metrics(sampler_steps=50)}, 2, 800)
    with pytest.raises(InputError, match=r"only one of ensemble and pretrained has 'kid_heldout'"):
        results(all_metrics() | {"ensemble": metrics(kid_heldout=1)}, 2, 800)
    with pytest.raises(InputError, match=r"min_snr was measured with images = 60, pretrained with 1200"):
        results(all_metrics() | {"min_snr": metrics(images=60)}, 2, 800)


def test_block_scores_are_read_from_the_path_of_each_model(tmp_path):
    models = {"pretrained": "pretrained", "full_range+scale": "n2/full_range+scale"}
    for k, path in enumerate(models.values()):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pd.DataFrame({"frechet_train": [k, 2.5]}).to_csv(tmp_path / f"{path}.csv", index_label="block")
    scores = read_scores(tmp_path, models)
    assert {model: list(blocks["frechet_train"]) for model, blocks in scores.items()} == {
        "pretrained": [0, 2.5],
        "full_range+scale": [1, 2.5],
    }
    (tmp_path / "n2/full_range+scale.csv").unlink()
    with pytest.raises(InputError, match=r"scale\.csv: no such file; `dvc repro evaluate@full_range\+scale` writes it"):
        read_scores(tmp_path, models)


# Baselines


def test_every_model_that_a_run_can_measure_has_its_name():
    names = [model_name(model) for model in dag(4, BASELINES)["models"]]
    assert len(set(names)) == len(names) == len(OWN) + 2 * len(BASELINES) - 1 + 2
    assert model_name("min_snr") == "Min-SNR-γ"
    assert model_name("min_snr+scale") == "Min-SNR-γ, searched scale"


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        ("pretrained", "—"), ("ensemble", "4 × 1,600"), ("merged_uniform", "4 × 1,600"), ("merged", "4 × 1,600"),
        ("merged_nonnegative", "4 × 1,600"),
        ("full_range", "6,400"), ("full_range+scale", "6,400"), ("snr_plus_one", "6,400"), ("truncated_snr", "6,400"),
        ("min_snr+scale", "6,400"), ("loss_equivalent", "6,400"), ("soup_full_range", "4 × 1,600"),
        ("soup_full_range+scale", "4 × 1,600"), ("soup_greedy", "4 × 1,600"),
    ],
)  # fmt: skip
def test_training_steps_by_hand(model, steps):
    assert training_steps(model, 4, 1600, 0) == steps


def test_training_steps_on_own_samples_by_hand():
    for step in ("away", "neon"):
        assert [training_steps(step, 4, 1600, trainings) for trainings in (1, 2)] == ["1,600", "2 × 1,600"]


def test_page_with_baselines_by_hand(tmp_path):
    models = all_metrics() | {m: metrics() for m in ("full_range", "full_range+scale", "soup_greedy")}
    text = page("toy", results(models, 2, 800), *searched(tmp_path, 2), {})
    lines = text.splitlines()
    rows = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ") for row in lines if row.startswith("|")}
    header = rows["model"]
    assert rows["full-range finetune, searched scale"][header.index("training steps")] == "1,600"
    assert rows[MODELS["soup_greedy"]][header.index("training steps")] == "2 × 800"
    assert {len(row) for row in rows.values() if row[0] in map(model_name, models)} == {len(header)}
    none = "no difference shown on the training part; no difference shown on the held-out part"
    assert f"- {MODELS['soup_greedy']}: {none}" in lines
