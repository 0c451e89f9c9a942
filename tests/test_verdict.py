"""Merges that fool the search's extractor, sampled and measured for real: the verdict of the judges says so.

The base is the shipped one of the digits, the directions are random, and the weights are what a search of 60 trials of
200 images found for the search's extractor: few images and many trials, as one should not search.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.data.images import DataParams
from deme_core.data.sources import read_parts
from deme_core.denoising import single
from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.judges import block_distances, load_judges
from deme_core.metrics.moments import Moments
from deme_core.metrics.verdict import JUDGE, judged_metrics
from deme_core.report.verdicts import words
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.seeds import SeedBlock

BASE, JUDGES = Path("zoo/digits-ddpm"), Path("zoo/judges/digits/final")
IMAGES, BLOCKS = 1200, 6
CPU = torch.device("cpu")
Weights = tuple[float, ...]


@pytest.fixture(scope="module")
def measure() -> Callable[[float, float, Weights], tuple[dict[str, float], str, list[str]]]:
    """(bias of the base, length of the random vectors beside θ, w) -> metrics of the merge, verdict, the judges."""
    real = read_parts(DataParams(source="digits", path=None, size=8, held_out=0.2))["train"].pixels
    extractor, judges = load_extractor("zoo/digits-features"), load_judges(JUDGES)
    reference = {"train": extractor([real])}
    references = {judge.name: {"train": judge.extractor([real])} for judge in judges}
    sampler = Sampler.of(BASE, SamplerParams(kind="ddim", steps=10, spacing="uniform", block=200, dtype="float32"), CPU)
    model = load_denoiser(denoiser_dir(BASE))
    shipped = {key: value.clone() for key, value in model.state_dict().items()}

    def images(theta: dict[str, torch.Tensor], length: float, w: Weights) -> torch.Tensor:
        generator, merged = torch.Generator().manual_seed(0), dict(theta)
        for weight in w:
            for key, value in theta.items():
                direction = torch.randn(value.shape, generator=generator)
                merged[key] = merged[key] + weight * direction * (value.norm() * length / direction.norm())
        model.load_state_dict(merged)
        return sampler.images(single(model, CPU), SeedBlock.EVALUATION, 0, IMAGES)

    def measured(bias: float, length: float, w: Weights) -> tuple[dict[str, float], str, list[str]]:
        theta = shipped | {"conv_out.bias": shipped["conv_out.bias"] + bias}
        made = {"pretrained": images(theta, length, ()), "merged": images(theta, length, w)}
        distances: dict[str, dict[str, list[float]]] = {name: {} for name in made}
        for judge in judges:
            for name, pixels in made.items():
                distances[name] |= block_distances(judge, judge.extractor([pixels]), references[judge.name], BLOCKS)
        names = [judge.name for judge in judges]
        features = {name: extractor([pixels]) for name, pixels in made.items()}
        metrics, _ = evaluate(features["merged"], features["pretrained"], reference, EvaluateParams(blocks=BLOCKS))
        metrics |= judged_metrics(distances["merged"], distances["pretrained"], names, ["train"])
        metrics["base"] = FrechetReference(Moments.of(reference["train"])).distance(Moments.of(features["pretrained"]))
        scores = {name: pd.DataFrame(by_judge).add_prefix(JUDGE) for name, by_judge in distances.items()}
        return metrics, words(scores, "merged", "train"), names

    return measured


def test_a_merge_that_the_search_likes_and_every_judge_dislikes_is_called_worse(measure: Callable) -> None:
    metrics, said, judges = measure(0.0, 0.05, (-0.198, -0.131, 0.787, 0.456))
    assert metrics["frechet_train"] < 0.95 * metrics["base"]  # by the search's own extractor
    assert metrics["judges_train_change_low"] > 0
    assert all(metrics[f"{JUDGE}{judge}_train_change"] > 0 for judge in judges)
    assert said == "worse"


def test_random_vectors_gain_on_a_base_out_of_calibration_and_the_verdict_calls_it_none(measure: Callable) -> None:
    """Every ε of the base is 0.1 too low, so that nearly any step helps: −70 % for nothing learned."""
    metrics, said, _ = measure(-0.1, 0.1, (0.158, -0.166, 0.606, 0.129))
    assert metrics["frechet_train"] < metrics["base"] / 2
    assert metrics["frechet_train_change_high"] < 0
    assert said.startswith("judges disagree: dense")
