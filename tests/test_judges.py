"""Judges and their verdict: distances by hand, networks of every kind, and who may call a model better."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deme_core.data.images import to_model
from deme_core.errors import InputError
from deme_core.metrics.cmmd import CmmdReference
from deme_core.metrics.features import load_extractor
from deme_core.metrics.image_statistics import image_statistics
from deme_core.metrics.judges import block_distances, group_name, load_judges, real_distance
from deme_core.metrics.networks import NETWORKS
from deme_core.metrics.verdict import JudgeParams, judged_metrics, log_ratios, verdict_of
from deme_core.report.verdicts import experts_section, floor_section, lead, statistics_section, words
from deme_core.tensors import read_tensors, write_tensors
from deme_core.training.gate import NOT_MEASURED

GROUPS = [
    f"zoo/judges/{data}/{group}"
    for data in ("digits", "digits-32", "fashion-mnist-16")
    for group in ("development", "final")
]


def write_network(folder: Path, name: str, **arguments: int) -> Path:
    torch.manual_seed(0)
    model = NETWORKS[name](**arguments)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": name} | arguments))
    write_tensors(folder / "model.safetensors", model.state_dict())
    return folder


KINDS = {
    "SmallClassifier": {"channels": 1, "width": 8, "classes": 10},
    "PlaceClassifier": {"channels": 1, "size": 8, "width": 8, "classes": 10},
    "DenseClassifier": {"channels": 1, "size": 8, "width": 8, "classes": 10, "depth": 2},
    "DenseAutoencoder": {"channels": 1, "size": 8, "width": 8},
    "ConvolutionalAutoencoder": {"channels": 1, "size": 8, "width": 8},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_network_of_each_kind_is_read_back_as_an_extractor(name: str, tmp_path: Path, digits: torch.Tensor) -> None:
    folder = write_network(tmp_path / "own", name, **KINDS[name])
    model = NETWORKS[name](**KINDS[name]).eval()
    extractor = load_extractor(str(folder))
    model.load_state_dict(read_tensors(folder / "model.safetensors"))
    with torch.inference_mode():
        expected = model.features(to_model(digits[:20])).numpy()
        output = model(to_model(digits[:20]))
    np.testing.assert_allclose(extractor([digits[:20]]), expected, rtol=1e-5, atol=1e-6)
    assert output.shape == (digits[:20].shape if "Autoencoder" in name else (20, 10))


def test_a_network_refuses_images_of_another_size(tmp_path: Path) -> None:
    dense = load_extractor(str(write_network(tmp_path / "own", "DenseClassifier", **KINDS["DenseClassifier"])))
    with pytest.raises(InputError, match=r"own' is for images of 1 × 8 × 8 .* these have 1 × 16 × 16"):
        dense([torch.zeros(2, 1, 16, 16, dtype=torch.uint8)])
    pooled = load_extractor(str(write_network(tmp_path / "any", "SmallClassifier", **KINDS["SmallClassifier"])))
    assert pooled([torch.zeros(2, 1, 16, 16, dtype=torch.uint8)]).shape == (2, 8)
    with pytest.raises(InputError, match=r"any' is for images of 1 \(channels.* these have 3 × 8 × 8"):
        pooled([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])


def test_pixels_are_means_of_squares_in_0_to_1(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "Pixels", "side": 2}')
    pixels = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    np.testing.assert_allclose(load_extractor(str(tmp_path))([pixels]) * 255, [[2.5, 4.5, 10.5, 12.5]], rtol=1e-6)


def test_cmmd_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([math.exp(-float(np.sum((u - v) ** 2)) / (2 * 10**2)) for u in p for v in q]))

    expected = 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    assert CmmdReference(y).distance(x) == pytest.approx(expected, rel=1e-9)
    assert CmmdReference(y).distance(y) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="row 1 is zero"):
        CmmdReference(np.array([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("folder", GROUPS)
def test_the_shipped_groups_are_whole_and_differ_in_kind_from_the_searchs_extractor(folder: str) -> None:
    judges = load_judges(Path(folder))
    assert len(judges) >= 2
    kinds = {json.loads((Path(folder) / judge.name / "config.json").read_text())["_class_name"] for judge in judges}
    assert len(kinds) == len(judges)
    assert "SmallClassifier" not in kinds
    assert any("Autoencoder" in kind or kind == "Pixels" for kind in kinds)  # without labels


@pytest.mark.parametrize("data", ["digits", "digits-32", "fashion-mnist-16"])
def test_no_judge_of_one_group_is_one_of_the_other(data: str) -> None:
    groups = [load_judges(Path(f"zoo/judges/{data}/{group}")) for group in ("development", "final")]
    hashes = [{judge.extractor.sha256 for judge in group} for group in groups]
    assert not hashes[0] & hashes[1]


def test_a_group_is_named_by_the_hash_of_its_judges(tmp_path: Path) -> None:
    first = write_network(tmp_path / "a" / "one", "DenseClassifier", **KINDS["DenseClassifier"])
    name = group_name(tmp_path / "a", load_judges(tmp_path / "a"))
    (first / "config.json").rename(first / "kept")
    with pytest.raises(InputError, match="holds no extractor"):
        load_judges(tmp_path / "a")
    (first / "kept").rename(first / "config.json")
    write_network(tmp_path / "a" / "two", "DenseAutoencoder", **KINDS["DenseAutoencoder"])
    assert name.startswith(f"{tmp_path.as_posix()}/a-")
    assert group_name(tmp_path / "a", load_judges(tmp_path / "a")) != name


def test_a_clip_model_judges_by_cmmd(digits: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"_class_name": "CLIP", "source": "zoo/digits-clip"}')
    (judge,) = load_judges(tmp_path)
    rng = np.random.default_rng(1)
    real, ours = rng.normal(size=(30, 4)), rng.normal(size=(40, 4))
    found = block_distances(judge, ours, {"train": real}, 2)
    assert found == {"clip_train": [CmmdReference(real).distance(ours[:20]), CmmdReference(real).distance(ours[20:])]}


def test_a_run_by_the_development_judges_says_so() -> None:
    assert JudgeParams(folder="a/final", development="a/development").group == "final judges"
    assert JudgeParams(folder="a/development", development="a/development").group == "development judges"


BASE = {"a_train": [1.0, 2.0, 4.0], "b_train": [10.0, 10.0, 10.0]}


def test_the_verdict_is_the_geometric_mean_with_a_paired_interval() -> None:
    """Every block of `a` is halved, those of `b` change by 1/4, 1/2 and 1: means of 2^−1.5, 2^−1 and 2^−0.5."""
    ours = {"a_train": [0.5, 1.0, 2.0], "b_train": [2.5, 5.0, 10.0]}
    verdict = verdict_of(log_ratios(ours, BASE, "train", ["a", "b"]))
    assert verdict.change.value == pytest.approx(100 * (2**-1.0 - 1))
    half = 4.302652729911275 * 0.5 * math.log(2) / math.sqrt(3)  # t of 2 degrees times the deviation of the three
    assert verdict.change.low == pytest.approx(100 * math.expm1(-math.log(2) - half))
    assert verdict.judges["a"].high == pytest.approx(-50)
    assert (verdict.against, verdict.better, verdict.worse) == (["b"], False, False)
    worse = judged_metrics(ours | {"b_train": [9.0, 9.0, 9.0]}, BASE, ["a", "b"], ["train"])
    assert worse["judges_train_worst"] == "b"
    assert worse["judge_b_train_change_high"] == pytest.approx(-10)
    metrics = judged_metrics(ours, BASE, ["a", "b"], ["train"])
    assert metrics["judges_train_change"] == pytest.approx(-50)
    assert metrics["judge_b_train"] == pytest.approx(17.5 / 3)
    with pytest.raises(InputError, match="judge a: a distance on the train part is not above 0"):
        log_ratios(ours | {"a_train": [0.0, 1.0, 2.0]}, BASE, "train", ["a"])


def scores(**factors: tuple[float, float]) -> dict[str, pd.DataFrame]:
    """Block scores of the pretrained model, and of others whose judges a and b see it times these factors."""
    rng = np.random.default_rng(0)
    base = pd.DataFrame({"judge_a_train": rng.uniform(1, 2, 6), "judge_b_train": rng.uniform(5, 9, 6)})
    wobble = pd.DataFrame({key: rng.uniform(0.99, 1.01, 6) for key in base})
    found = {
        model: base * wobble * pd.Series(dict(zip(base, pair, strict=True))) for model, pair in factors.items()
    }  # fmt: skip
    return {"pretrained": base} | found


def test_better_needs_every_judge_and_no_random_vectors_that_reach_it() -> None:
    models = scores(
        merged=(0.7, 0.8), ensemble=(0.5, 1.1), merged_uniform=(1.2, 1.3), random1=(0.9, 0.9), matched=(1, 1)
    )
    assert words(models, "merged", "train") == "better"
    assert words(models, "ensemble", "train") == "judges disagree: b saw no gain"
    assert words(models, "merged_uniform", "train") == "worse"
    assert words(models, "random1", "train") == "better"  # beside the pretrained model alone: it is the null itself
    assert words(models, "matched", "train") == "no gain shown"
    models["random2"] = models["merged"] * 0.999
    assert words(models, "merged", "train") == "no gain: random vectors, searched w (draw 2) reached it"


def test_models_of_other_trainings_are_not_compared() -> None:
    several, one = {"a_train": np.ones((3, 6))}, {"a_train": np.ones((1, 6))}
    with pytest.raises(InputError, match=r"judge a: two models have 1 × 6 and 3 × 6 distances on the train part, and"):
        log_ratios(one, several, "train", ["a"])


def test_the_page_says_how_near_real_images_come_to_the_few_that_are_held_out() -> None:
    models = {"pretrained": pd.DataFrame({"judge_a_heldout": [3.0, 5.0], "judge_b_heldout": [10.0, 10.0]})}
    (text,) = floor_section(models, {"a": 3.2, "b": 8.0}, 2000, 2000)
    assert text == (
        "On the held-out part real images of the training part, 2,000 at a time, read −20.0 % (`a` −20.0, `b` −20.0 %):"
        " a model that reads so is as near to it as real images are."
    )
    (fewer,) = floor_section(models, {"a": 3.2, "b": 8.0}, 1437, 2000)
    assert fewer.endswith(" %), which read higher than the models' 2,000 do: the true floor is lower.")
    assert floor_section(models, {}, 9, 9) == []
    assert floor_section(models, {"a": -0.1, "b": 8.0}, 9, 9) == []  # an unbiased distance has no ratio there


@pytest.mark.parametrize(("images", "sets"), [(200, 3), (300, 2), (599, 1), (600, 1), (5000, 1)])
def test_real_images_are_held_against_a_model_as_many_at_a_time(
    rng: np.random.Generator, images: int, sets: int
) -> None:
    heldout, train = rng.normal(size=(90, 4)), rng.normal(size=(600, 4))
    (judge,) = [judge for judge in load_judges(Path("zoo/judges/digits/final")) if judge.name == "pixels"]
    seen: list[np.ndarray] = []

    def spied(real: np.ndarray) -> Callable[[np.ndarray], float]:
        distance = judge.distance_to(real)
        return lambda rows: seen.append(rows) or distance(rows)  # type: ignore[func-returns-value]

    found = real_distance(replace(judge, distance_to=spied), heldout, train, images)
    assert [len(rows) for rows in seen] == [min(images, 600)] * sets
    assert len(np.unique(np.concatenate(seen), axis=0)) == sets * min(images, 600)  # no image stands in two sets
    assert found == pytest.approx(np.mean([judge.distance_to(heldout)(rows) for rows in seen]))


def test_the_page_leads_with_verdict_null_and_the_worst_judge() -> None:
    models = scores(
        ensemble=(0.5, 1.1), merged_uniform=(1.2, 1.3), merged=(0.7, 0.8), random1=(0.9, 0.9), matched=(1.0, 1.0)
    )
    protocol = {"judges": "group-0123", "images": 12000, "seed_blocks": 6}
    table = pd.DataFrame({"frechet_train_change_percent": 0.0} | protocol, index=list(models))
    table.loc["merged", "frechet_train_change_percent"] = -44.4
    text = "\n\n".join(lead(table, models, "final judges", {}, 0))
    first = text.split("\n\n")[0]
    assert first.startswith("**Verdict** of the final judges")
    assert "worst judge `b` −" in first
    assert first.endswith(", **better**.")
    assert "random vectors, searched w (draw 1) −" in text.split("\n\n")[1]
    assert "−44.4 %; that number is no evidence" in text
    assert "group-0123" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1
    assert "held-out" not in text
    assert "best baseline" not in text
    models |= {"full_range": models["random1"] * 0.9, "soup_greedy": models["random1"] * 1.2}
    table = table.reindex(list(models)).fillna({"frechet_train_change_percent": 0.0, "judges": "group-0123"})
    beside = next(
        text for text in lead(table, models, "final judges", {}, 0) if text.startswith("Beside the best baseline")
    )
    assert beside.startswith("Beside the best baseline, full-range finetune (")
    models["merged"] = models["pretrained"]
    models["neon"] = models["random1"] * 0.5
    table = table.reindex(list(models)).fillna({"frechet_train_change_percent": 0.0, "judges": "group-0123"})
    first = lead(table, models, "final judges", {}, 0)[0]
    assert "DeMe merged, searched w: the search kept w = 0, this is the pretrained model. away from own" in first
    assert first.endswith(", **better**.")
    models["away"] = models["neon"]  # a search that took the length that is set
    first = lead(table.reindex(list(models)).ffill(), models, "final judges", {}, 0)[0]
    assert first.endswith("searched step (Neon): the same model as away from own samples, no search.")


def test_an_expert_that_lost_stands_in_capitals() -> None:
    rows = [
        [1, "[0, 500)", "pretrained", 0.3, 0.31, -3.0, -4.0, -2.0, True, 0.3],
        [2, "[500, 1000)", "pretrained", 0.1, 0.1, 0.5, -1, 2, False, 0.1],
    ]
    experts = pd.DataFrame(rows, columns=NOT_MEASURED.columns)
    text = "\n".join(experts_section(experts, experts[:1].assign(range="[0, 1000)"), "warn"))
    assert "| own samples: [0, 1000) | pretrained |" in text
    assert "EXPERT 2 DOES NOT BEAT THE BASE ON ITS OWN RANGE [500, 1000)" in text
    assert "EXPERT 1" not in text
    assert "−3.00 % [−4.00, −2.00]" in text
    assert "own samples:" not in "\n".join(experts_section(experts, experts[:0], "warn"))
    assert "Not measured" in experts_section(experts[:0], experts[:0], "ignore")[1]


def test_statistics_do_not_depend_on_batches() -> None:
    pixels = torch.randint(0, 256, (50, 3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = image_statistics([pixels])
    assert all(image_statistics(pixels.split(size)) == whole for size in (1, 7, 49))
    assert whole["deviation"] == pytest.approx((pixels / 255.0).std((0, 2, 3), correction=0).tolist(), rel=1e-5)


def test_statistics_by_hand() -> None:
    pixels = torch.zeros(2, 2, 2, 2, dtype=torch.uint8)
    pixels[:, 1] = torch.tensor([[0, 255], [51, 51]], dtype=torch.uint8)
    found = image_statistics([pixels[:1], pixels[1:]])
    assert found["mean"] == pytest.approx([0, 0.35])
    assert found["deviation"] == pytest.approx([0, math.sqrt((0 + 1 + 0.04 + 0.04) / 4 - 0.35**2)])
    assert found["gradient"] == pytest.approx([0, 0.5])
    assert found["black"] == pytest.approx([1, 0.25])
    assert found["white"] == pytest.approx([0, 0.25])
    edges = image_statistics([torch.tensor([[[[0, 1, 2, 253, 254, 255]]]], dtype=torch.uint8)])
    assert edges["black"] == edges["white"] == [1 / 3]
    assert "0.0000 / 0.3500" in statistics_section({"real images": found})[2]
