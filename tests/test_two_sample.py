"""The classifier two-sample test: what can and cannot be told apart, at the grey levels of the data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, stage
from dag_runs import link_judges

from deme_core.data.archive import PROTOCOL, write_archive
from deme_core.data.images import DataParams, save_part
from deme_core.data.sources import read_digits, read_parts
from deme_core.metrics.judges import load_judges
from deme_core.metrics.two_sample import grey_levels, quantised, separability, two_sample, two_sample_metrics
from deme_core.params import read

FINAL = "zoo/judges/digits/final"


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    """All digits, uint8 [1797, 1, 8, 8]."""
    return read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2)).pixels


@pytest.fixture(scope="module")
def rows(real: torch.Tensor) -> np.ndarray:
    return real.flatten(1).numpy().astype(np.float32)


def test_two_halves_of_one_set_cannot_be_told_apart(rows: np.ndarray) -> None:
    """The area of one random split is 0.5 with a deviation of 0.04, so that the mean of 12 has an error of 0.012."""
    rng = np.random.default_rng(0)
    halves = [np.split(rng.permutation(rows)[:400], 2) for _ in range(12)]
    assert np.mean([separability(a, b) for a, b in halves]) == pytest.approx(0.5, abs=0.04)


def test_disjoint_sets_are_told_apart_wholly(rows: np.ndarray) -> None:
    assert separability(rows[:200], 255 - rows[200:400]) == 1.0


def test_swapped_sets_are_as_separable(rows: np.ndarray) -> None:
    blurred = (rows[:150] + np.roll(rows[:150], 1, axis=1)) / 2
    found = separability(blurred, rows[150:300])
    assert 0.6 < found < 1
    assert separability(rows[150:300], blurred) == pytest.approx(found, abs=1e-3)


def test_equal_means_with_other_deviations_are_told_apart() -> None:
    """A linear classifier would be no better than chance."""
    rng = np.random.default_rng(0)
    assert separability(rng.normal(size=(300, 8)), 2 * rng.normal(size=(300, 8))) > 0.85


def test_units_of_features_do_not_matter(rows: np.ndarray) -> None:
    units = 10.0 ** np.arange(64).clip(max=6)
    a, b = rows[:100], rows[100:200] * 0.9
    assert separability(a * units + 1e3, b * units + 1e3) == pytest.approx(separability(a, b), abs=1e-3)


@pytest.mark.parametrize(("a", "b"), [((4, 2), (4, 2)), ((6, 2), (7, 2)), ((6, 2), (6, 3))])
def test_unequal_or_tiny_sets_are_refused(a: tuple[int, int], b: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be equal, with at least 5 rows"):
        separability(np.ones(a), np.ones(b))


def test_grey_levels_are_those_that_occur(real: torch.Tensor) -> None:
    assert grey_levels(real, chunk=100) == real.unique().tolist()
    assert len(grey_levels(real)) == 17
    assert grey_levels(torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), chunk=1) == list(range(256))


def test_pixels_go_to_the_nearest_level() -> None:
    greys = torch.tensor([0, 3, 4, 5, 6, 99, 104, 105, 255], dtype=torch.uint8).view(1, 1, 3, 3)
    (found,) = quantised([greys], [3, 9, 200])
    assert found.flatten().tolist() == [3, 3, 3, 3, 3, 9, 9, 200, 200]
    assert found.dtype == torch.uint8
    assert torch.equal(next(iter(quantised([greys], range(256)))), greys)


def test_all_sets_have_the_size_of_the_smallest_and_blocks_meet_other_training_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(
        "deme_core.metrics.two_sample.separability", lambda a, b: float(calls.append((a[:, 0], b[:, 0])) or 0.5)
    )
    numbers = np.arange(100.0)[:, None]
    found = two_sample(1000 + numbers[:40], {"train": numbers, "heldout": 500 + numbers[:9]}, 2)
    assert found == {"samples": [0.5, 0.5], "real": [0.5, 0.5]}
    assert {len(one) for pair in calls for one in pair} == {9}
    first, second = (set(train) for _, train in calls[:2])
    assert not first & second
    assert [set(train) for _, train in calls[2:]] == [first, second]  # the mark's, too
    assert calls[0][0].tolist() == list(range(1000, 1009))
    assert calls[1][0].tolist() == list(range(1020, 1029))
    assert {float(x) for x, _ in [(min(a), b) for a, b in calls[2:]]} == {500.0}
    assert list(two_sample(numbers[:40], {"train": numbers}, 2)) == ["samples"]
    assert two_sample(numbers[:40], {"train": numbers, "heldout": numbers[:4]}, 2) == {}


def test_metrics_are_means_over_blocks_and_judges() -> None:
    found = {
        "a": {"samples": [0.5, 0.7], "real": [0.5, 0.52]},
        "b": {"samples": [0.7, 0.9], "real": [0.48, 0.5]},
    }
    metrics, scores = two_sample_metrics(found)
    assert {key: metrics[key] for key in ("c2st", "c2st_a", "c2st_b")} == pytest.approx(
        {"c2st": 0.7, "c2st_a": 0.6, "c2st_b": 0.8}
    )
    assert [metrics[key] for key in ("c2st_real", "c2st_a_real", "c2st_b_real")] == pytest.approx([0.5, 0.51, 0.49])
    half = 12.706204736174694 * 0.1  # t of 1 degree times the standard error of two values 0.2 apart
    assert (metrics["c2st_low"], metrics["c2st_high"]) == pytest.approx((0.7 - half, 0.7 + half))
    assert scores == {"c2st_a": [0.5, 0.7], "c2st_b": [0.7, 0.9]}
    assert two_sample_metrics({"a": {}}) == ({}, {})
    assert "c2st_real" not in two_sample_metrics({"a": {"samples": [0.5, 0.7]}})[0]


def judge_samples(
    pixels: torch.Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, list[float]]]:
    """What the stage judge says of images, judge by judge."""
    write_archive(Path(name), 0, pixels)
    (Path(name) / PROTOCOL).write_text("{}")
    arguments = ["--samples", name, "--reference", "judges", "--out", f"{name}.csv", "--protocol", f"{name}.json"]
    stage("judge", *arguments, monkeypatch=monkeypatch)
    return json.loads(Path(f"{name}.json").read_text())["two_sample"]


def test_samples_are_judged_at_the_grey_levels_of_the_data(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images, and the same with other greys within half a step: no eye sees it, a classifier would."""
    link_judges(empty_folder)
    parts = read_parts(DataParams(source="digits", path=None, size=8, held_out=0.2))
    for part, images in parts.items():
        save_part(Path("data"), part, images)
    params = read(REPOSITORY / "params.yaml")
    params["sample"]["images"], params["evaluate"]["blocks"] = 360, 2
    Path("params.yaml").write_text(json.dumps(params))
    stage("judge_reference", "--data", "data", "--out", "judges", monkeypatch=monkeypatch)
    train, pixels = parts["train"].pixels[:180], parts["heldout"].pixels
    noise = torch.randint(-7, 8, pixels.shape, generator=torch.Generator().manual_seed(0))
    raw = (pixels + noise).clamp(0, 255).to(torch.uint8)

    found = judge_samples(raw, "raw", monkeypatch)
    assert found == judge_samples(pixels, "clean", monkeypatch)
    assert set(found) == {"code", "dense", "pixels", "place"}
    assert all(len(of_judge["samples"]) == len(of_judge["real"]) == 2 for of_judge in found.values())
    assert all(abs(np.mean(of_judge["samples"]) - 0.5) < 0.1 for of_judge in found.values())
    (judge,) = [judge for judge in load_judges(Path(FINAL)) if judge.name == "pixels"]
    assert separability(judge.extractor([raw[:180]]), judge.extractor([train])) > 0.95

    before = Path("raw.json").read_bytes()
    judge_samples(raw, "raw", monkeypatch)
    assert Path("raw.json").read_bytes() == before
