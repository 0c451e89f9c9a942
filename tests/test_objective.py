"""The score of a trial: the extractors, the CLIP score, and their sums."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, N, sampler_params, search_result, write_experts, write_vectors
from searching import OBJECTIVES, quadratic, search_params, searched

from deme_core.checkpoints import load_denoiser
from deme_core.data.archive import read_images
from deme_core.data.examples import Pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.evaluation import EvaluateParams, evaluate
from deme_core.metrics.feature_files import write_features
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.kernel import kernel_distance
from deme_core.metrics.moments import Moments
from deme_core.prompts.settings import PromptParams
from deme_core.sampling.conditions import Conditions
from deme_core.sampling.generate import Sampler
from deme_core.sampling.sample import sample_model
from deme_core.search.check import check_search
from deme_core.search.loss import DenoisingLoss
from deme_core.search.objective import (
    MergedLoss,
    MergedModel,
    Scorer,
    frechet,
    geometric_mean,
    make_objective,
    score_weights,
)
from deme_core.search.result import SearchResult
from deme_core.search.trials import Weights
from deme_core.seeds import SeedBlock

CPU = torch.device("cpu")

DEVELOPMENT = REPOSITORY / "zoo" / "judges" / "digits" / "development"


def scores(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, weights: Weights, images: int
) -> tuple[float, float]:
    """Of the same images: the score of a trial, and what the stages merge, sample, features and evaluate give."""
    params, extractor = sampler_params(block=50, steps=5), load_extractor(str(extractor_dir))
    reference = extractor([digits])
    sampler = Sampler.of(pipeline, params, CPU)
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))
    objective = make_objective("frechet", loss, sampler, scorer := Scorer(extractor, reference))
    objective((0.5, 0.5), SeedBlock.SEARCH, 0, 50)  # the model is kept from trial to trial
    trial = objective(weights, SeedBlock.EVALUATION, 0, images)

    write_merged(pipeline, vectors, weights, Path("merged"), {})
    sample_model(Path("merged"), pipeline, params, images, Path("samples"))
    features = extractor(read_images(Path("samples"), images))
    metrics, _ = evaluate(features, features, {"train": reference}, EvaluateParams(blocks=2))

    denoise = single(load_denoiser(Path("merged/unet")), CPU)
    by_hand = sampler.images(denoise, SeedBlock.EVALUATION, 0, images)
    assert metrics["frechet_train"] == frechet(scorer)([by_hand], [])
    return trial, metrics["frechet_train"]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.25, 0.5), (1.0, -0.5)])
def test_a_trials_score_is_that_of_the_stages_merge_sample_and_evaluate(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, empty_folder: Path, weights: Weights
) -> None:
    trial, staged = scores(pipeline, vectors, extractor_dir, digits, weights, 120)
    assert trial == staged


def test_a_trials_score_is_that_of_the_stages_under_released(
    pipeline: Path, extractor_dir: Path, digits: torch.Tensor, empty_folder: Path
) -> None:
    experts = write_experts(pipeline, empty_folder / "experts", "released")
    vectors = write_vectors(pipeline, experts, empty_folder / "vectors")
    trial, staged = scores(pipeline, vectors, extractor_dir, digits, (1.0, 0.5), 600)
    assert trial == staged


@pytest.fixture
def wired(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> tuple[MergedLoss, Sampler, Scorer]:
    """What an objective is made of, with 16 images a block."""
    extractor = load_extractor(str(extractor_dir))
    sampler = Sampler.of(pipeline, sampler_params(block=16), CPU)
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))
    return loss, sampler, Scorer(extractor, extractor([digits]))


def test_a_trial_whose_images_are_not_finite_names_its_weights(wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    objective = make_objective("frechet", *wired)
    with pytest.raises(InputError, match=r"^the merge with w = \(0\.5, 1e\+36\): its prediction at step 1 of 3"):
        objective((0.5, 1e36), SeedBlock.SEARCH, 0, 16)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_depend_on_weights_and_seed_block(name: str, wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    objective = make_objective(name, *wired)
    found = [objective(w, block, 0, 16) for w in ((0.0,) * N, (0.5,) * N, (1.0, 0.0)) for block in SeedBlock]
    assert len(set(found)) == len(found)
    assert objective((0.0,) * N, SeedBlock.SEARCH, 0, 16) == found[0]


def test_an_objective_is_the_row_of_its_name(wired: tuple[MergedLoss, Sampler, Scorer]) -> None:
    loss, sampler, scorer = wired
    extractor, reference = scorer.extractor, scorer.reference
    asked = (0.5, 0.0), SeedBlock.SEARCH, 0, 16
    images = sampler.generate(single(loss.model.at((0.5, 0.0)), CPU), SeedBlock.SEARCH, 0, 16)
    features = extractor(images)
    moments = Moments.of(features)
    expected = {
        "frechet": FrechetReference(Moments.of(reference)).distance(moments),
        "kid": kernel_distance(features, reference),
        "loss": loss.value(*asked),
    }
    assert {name: make_objective(name, loss, sampler, scorer)(*asked) for name in OBJECTIVES} == expected
    both = make_objective("frechet + 0.5*kid", loss, sampler, scorer)(*asked)
    assert both == pytest.approx(expected["frechet"] + 0.5 * expected["kid"], rel=1e-12)


def test_several_extractors_see_the_images_of_one_sampling_and_share_a_geometric_mean(
    wired: tuple[MergedLoss, Sampler, Scorer], digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, sampler, alone = wired
    beside = tuple(Scorer.on(str(DEVELOPMENT / name), digits) for name in ("code", "dense"))
    asked, sampled = ((0.5, 0.0), SeedBlock.SEARCH, 0, 40), []
    each = [make_objective("frechet", loss, sampler, one)(*asked) for one in (alone, *beside)]
    generate = Sampler.generate
    monkeypatch.setattr(Sampler, "generate", lambda *args: sampled.append(args[2:5]) or generate(*args))
    beside = tuple(replace(one, extractor=replace(one.extractor, name="code")) for one in beside)  # names may be alike
    scorer = replace(alone, beside=beside)
    assert scorer.identity == [*alone.identity, *(one.extractor.sha256 for one in beside)]
    found = make_objective("frechet", loss, sampler, scorer)(*asked)
    assert found == pytest.approx(math.prod(each) ** (1 / 3), rel=1e-12)
    assert sampled == [(SeedBlock.SEARCH, 0, 40)]


@pytest.mark.parametrize("distance", [0.0, 0.1, 1 / 3, -1e-12, 3e200])
def test_of_one_extractor_the_score_is_its_distance_to_the_bit(distance: float) -> None:
    assert geometric_mean([("own", distance)]) == distance


@pytest.mark.parametrize("distance", [0.0, -1e-12, math.nan])
def test_several_distances_of_which_one_is_not_above_zero_have_no_mean(distance: float) -> None:
    with pytest.raises(InputError, match=f"^extractor broken: a trial's Fréchet distance is {distance:g}, and "):
        geometric_mean([("own", 1.0), ("broken", distance)])


def test_a_result_names_the_extractors_that_were_asked_for(tmp_path: Path) -> None:
    plain, *_ = searched(tmp_path / "plain", quadratic((0.5,)), 1)
    several, *_ = searched(tmp_path / "several", quadratic((0.5,)), 1, extractors=("a/b", "a/c"))
    assert several == replace(plain, extractors=["a/b", "a/c"])
    assert plain.extractors == []
    several.write(tmp_path / "result.json")
    assert SearchResult.read(tmp_path / "result.json") == several


def test_a_result_of_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"weights": [0.5]}')
    with pytest.raises(InputError, match=r"result\.json: 'best' is missing or unknown .* run merge_search again$"):
        SearchResult.read(tmp_path / "result.json")


def test_a_result_says_what_was_found_in_a_line() -> None:
    told = str(search_result([0.25, 0.0]))
    assert told == ("best w = (0.25, 0), frechet -25 % [-30, -20] on fresh images: taken; 8 trials, 4,000 images")
    assert "not told from 0" in str(search_result([0.0, 0.0], best=[0.25, 0.0]))


@pytest.mark.parametrize(
    ("objective", "passes"), [("frechet", True), ("frechet+clip_score", True), ("frechet+kid", False), ("loss", False)]
)
def test_only_distances_are_shared_by_several_extractors(objective: str, passes: bool) -> None:
    params = search_params(objective=objective, extractors=("a",), method="coordinate")
    if passes:
        check_search(3, params, texts=True)
        return
    with pytest.raises(InputError, match=r"extractors = \['a'\]: .* the objective is '.*'; take .*=frechet, or \[\]$"):
        check_search(3, params, texts=True)


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        ("kid", {"kid": 1.0}), ("loss", {}), ("frechet+0.1*clip_score", {"frechet": 1.0, "clip_score": 0.1}),
        (" 2 * kid + frechet ", {"kid": 2.0, "frechet": 1.0}),
    ],
)  # fmt: skip
def test_an_objective_is_a_weighted_sum(objective: str, weights: dict[str, float]) -> None:
    assert score_weights(objective) == weights


@pytest.mark.parametrize(
    "objective",
    ["fid", "", "frechet+", "frechet+frechet", "0*kid", "-1*kid", "x*kid", "*kid", "inf*kid", "frechet-kid", "loss+kid",
     " loss", "1*loss"],
)  # fmt: skip
def test_another_objective_is_refused(objective: str) -> None:
    with pytest.raises(InputError, match="a sum of them with positive weights, as frechet"):
        score_weights(objective)


class Unread(Conditions):
    """Prompts that the denoiser does not see."""

    def of(self, indices: Iterable[int]) -> dict[str, torch.Tensor]:
        return {}


def brightness(images: torch.Tensor) -> np.ndarray:
    return images.float().mean(dim=(1, 2, 3)).numpy() / 255


def test_the_clip_score_is_that_of_each_image_and_its_own_prompt(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> None:
    extractor, asked = load_extractor(str(extractor_dir)), ((0.5, 0.0), SeedBlock.SEARCH, 6, 16)
    plain = Sampler.of(pipeline, sampler_params(block=16), CPU)
    sampler = replace(plain, conditions=Unread(["one", "two", "three"], plain.conditions.encode))
    loss = MergedLoss(MergedModel(pipeline, vectors), DenoisingLoss(sampler.noise_schedule, Pixels(digits), CPU))

    def clip(images: Iterable[torch.Tensor], texts: Sequence[str]) -> np.ndarray:
        """A score that depends on both."""
        return brightness(torch.cat(list(images))) * [len(text) for text in texts]

    scorer = Scorer(extractor, extractor([digits]), cast(ClipScore, clip))
    images = plain.images(single(loss.model.at((0.5, 0.0)), CPU), SeedBlock.SEARCH, 6, 16)
    expected = 100 - float((brightness(images) * [(3, 3, 5)[k % 3] for k in range(6, 22)]).mean())
    assert make_objective("clip_score", loss, sampler, scorer)(*asked) == pytest.approx(expected, rel=1e-12)
    both = frechet(scorer)([images], []) + 2 * expected
    assert make_objective("frechet + 2*clip_score", loss, sampler, scorer)(*asked) == pytest.approx(both, rel=1e-12)


def test_clip_is_loaded_only_where_it_is_asked_for(
    extractor_dir: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = load_extractor(str(extractor_dir))
    write_features(tmp_path / "train.safetensors", extractor([digits]), extractor)
    monkeypatch.setattr(ClipScore, "of", lambda params: SimpleNamespace(name=f"{params.model} loaded"))
    given = str(extractor_dir), tmp_path / "train.safetensors", ClipScoreParams(model="own")
    assert Scorer.of("frechet+kid", *given).identity == [extractor.sha256, None]
    assert Scorer.of("kid+clip_score", *given).identity == [extractor.sha256, "own loaded"]


def test_the_clip_score_is_refused_where_images_have_no_prompts() -> None:
    with pytest.raises(InputError, match="the CLIP score is one of images with prompts; take frechet or kid"):
        check_search(3, search_params(objective="frechet+clip_score"), texts=False)


def test_a_search_takes_no_prompts_of_a_set_that_is_not_there_or_held_out() -> None:
    params = search_params(prompts=("names", "free"))
    names = {"names": PromptParams(source="file", path="names.txt")}
    check_search(3, params, texts=True)  # the stage merge_search, which reads them itself
    check_search(3, params, texts=True, sets=names | {"free": names["names"]})
    with pytest.raises(
        InputError, match=r"merge_search\.prompts = .*: \['free'\] is no set of `prompts`; there are names$"
    ):
        check_search(3, params, texts=True, sets=names)
    held_out = {"free": PromptParams(source="heldout", path="data/images")}
    with pytest.raises(InputError, match=r"\['free'\] has captions of the held-out part, which no search may see"):
        check_search(3, params, texts=True, sets=names | held_out)
