"""The metrics of a prompt set: each image against its own prompt, equal images equal numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from clip_stand_in import Compass, images
from measured_prompts import MOMENTS, PROMPTS, PROTOCOL, noise, of_set

from deme_core.errors import InputError
from deme_core.metrics.clip_score import ClipScore
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.frechet import frechet_distance
from deme_core.metrics.moments import Moments
from deme_core.metrics.prompt_evaluation import clip_metrics, clip_scores, evaluate_prompts, resized

SCORE = ClipScore(Compass([]), "compass")


def test_image_k_is_scored_against_prompt_k_in_turn() -> None:
    table = clip_scores(lambda: [images(0, 90, 180), images(90, 90, 90)], 6, PROMPTS, SCORE)
    assert list(table["prompt"]) == [0, 1, 2, 0, 1, 2]
    assert list(table["text"]) == ["right", "up", "left"] * 2
    assert list(table["clip_score"]) == pytest.approx([100, 100, 100, 0, 100, 0], abs=1e-3)
    found = clip_metrics(table)
    assert found["clip_score"] == pytest.approx((50 + 100 + 50) / 3, abs=1e-3)
    assert found["clip_score_low"] < found["clip_score"] < found["clip_score_high"]


def test_too_few_images_or_images_of_other_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="2 images of the set 'mine', which has 3 prompts; sample one of each"):
        clip_scores(lambda: [images(0, 90)], 2, PROMPTS, SCORE)
    for known in (4, None):
        protocol = PROTOCOL | {"prompts": known}
        with pytest.raises(InputError, match=f"images of {known} prompts, 'mine' has 3; sample them again"):
            evaluate_prompts(lambda: [noise()], protocol, PROMPTS, of_set(), SCORE, MOMENTS, 6)


def test_without_real_images_there_is_the_clip_score_alone() -> None:
    metrics, table = evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, of_set(), SCORE, MOMENTS, 6)
    assert len(table) == 24
    assert metrics["clip_model"] == "compass-01234567"
    assert (metrics["images"], metrics["prompts"], metrics["sampler_steps"]) == (24, 3, 3)
    assert not any("frechet" in key or key == "extractor" for key in metrics)
    assert all(not isinstance(value, dict | list) for value in metrics.values())


def test_the_frechet_distance_is_that_of_the_measured_images(tmp_path: Any) -> None:
    real = np.random.default_rng(0).normal(100, 30, (50, 2)).astype(np.float32)
    write_features(tmp_path / "real.safetensors", real, MOMENTS)
    params = of_set(reference=str(tmp_path / "real.safetensors"), size=2)
    metrics, _ = evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, params, SCORE, MOMENTS, 5)
    features = MOMENTS(resized([noise()], 2))
    assert metrics["frechet"] == pytest.approx(frechet_distance(Moments.of(features), Moments.of(real)))
    assert metrics["frechet_block5"] == pytest.approx(frechet_distance(Moments.of(features[16:20]), Moments.of(real)))
    assert "frechet_block6" not in metrics
    assert metrics["reference_images"] == 50
    with pytest.raises(InputError, match="24 images in 13 blocks: each needs at least 2"):
        evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, params, SCORE, MOMENTS, 13)
    other = Extractor("other", "fedcba", MOMENTS.forward)
    with pytest.raises(InputError, match="was made by extractor moments"):
        evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, params, SCORE, other, 5)


def test_images_are_resized_before_they_are_measured() -> None:
    grey = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    small = torch.cat(list(resized([grey], 4)))
    assert small.shape == (2, 3, 4, 4)
    assert (small == 77).all()
    assert next(iter(resized([grey], 8))) is grey
    assert next(iter(resized([grey], None))) is grey


def test_the_same_images_give_the_same_table() -> None:
    first, second = (
        evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, of_set(), SCORE, MOMENTS, 6)[1] for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, second)
