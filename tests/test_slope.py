"""The gradient of the Fréchet distance through the sampler, by differences, by one whole graph, and its memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N, peak_bytes, sampler_params
from searching import search_params
from torch import nn
from torch.func import functional_call

from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.features import load_extractor
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.sampling.generate import Sampler
from deme_core.search import slope as module
from deme_core.search.check import check_search, check_slope
from deme_core.search.objective import LOSS, MergedModel, Scorer, frechet
from deme_core.search.slope import DistanceSlope, SlopedReference, check_images, straight_through
from deme_core.seeds import SeedBlock

CPU = torch.device("cpu")
WHERE = SeedBlock.SEARCH, 3, 42  # neither end on a whole block
FEATURES = 4


def linear(levels: torch.Tensor, seed: int) -> torch.Tensor:
    """FEATURES smooth features of images of 8 × 8."""
    weight = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(seed)).to(torch.float64) / 800
    return torch.tanh(levels.flatten(1).double() @ weight)


def scorer(seed: int = 0, beside: tuple[Scorer, ...] = ()) -> Scorer:
    extractor = Extractor(f"linear{seed}", str(seed), lambda levels: linear(levels, seed), block=500)
    reference = np.random.default_rng(seed).normal(0.3, 0.2, (100, FEATURES))
    return Scorer(extractor, reference, beside=beside)


def slope_of(pipeline: Path, vectors: list[Path], target: Scorer, *, per_block: bool = False, **sampler: Any) -> Any:
    made = Sampler.of(pipeline, sampler_params(**{"block": 10, "steps": 3} | sampler), CPU)
    return DistanceSlope(MergedModel(pipeline, vectors, per_block=per_block), made, target)


# The distance


@pytest.mark.parametrize("D", [1, 3, 8])
def test_the_slope_of_a_distance_over_its_features_is_that_of_differences(D: int) -> None:
    rng = np.random.default_rng(D)
    target = SlopedReference(Moments.of(rng.normal(size=(50, D)) @ rng.normal(size=(D, D))))
    features = rng.normal(0.5, 2.0, (40, D))
    found = target.slopes(features)
    for k in (0, 7, 39):
        for d in range(D):
            step = np.zeros_like(features)
            step[k, d] = 1e-5
            ends = [target.distance(Moments.of(features + sign * step)) for sign in (1, -1)]
            assert found[k, d] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("constant", ["reference", "images", "both"])
def test_features_that_never_vary_leave_the_slope_finite_and_that_of_the_others_right(constant: str) -> None:
    """Those of constant pixels."""
    rng = np.random.default_rng(0)
    real, ours = rng.normal(size=(50, 3)), rng.normal(0.5, 2.0, (40, 3))
    if constant in ("reference", "both"):
        real[:, 2] = 0.25
    if constant in ("images", "both"):
        ours[:, 2] = 0.25
    found = SlopedReference(Moments.of(real)).slopes(ours)
    alone = SlopedReference(Moments.of(real[:, :2])).slopes(ours[:, :2])
    assert np.isfinite(found).all()
    if constant != "images":  # there the root of the third feature's variance has an infinite slope, cut by the floor
        assert found[:, :2] == pytest.approx(alone, rel=1e-6, abs=1e-9)


# The whole way


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[[DistanceSlope], None]:
    """Everything between w and the score in float64, and without rounding to grey levels."""

    def change(slope: DistanceSlope) -> None:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        monkeypatch.setattr(module, "straight_through", smooth)
        begun = Sampler.begun

        def in_double(self: Sampler, *asked: Any) -> Any:
            denoise, scheduler, noise, generators = begun(self, *asked)
            return denoise, scheduler, noise.double(), generators

        monkeypatch.setattr(Sampler, "begun", in_double)
        slope.model.model.double()
        slope.model.dtypes = dict.fromkeys(slope.model.dtypes, torch.float64)
        for mapped in (slope.model.theta, slope.model.taus):
            for key, value in mapped.items():
                mapped[key] = [tau.double() for tau in value] if isinstance(value, list) else value.double()

    return change


def smooth(images: torch.Tensor) -> torch.Tensor:
    return (images / 2 + 0.5) * 255


def smooth_score(slope: DistanceSlope, weights: Any) -> tuple[torch.Tensor, list[Any], torch.Tensor]:
    """Score and features of the images of w, by one graph from w to both."""
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    model = slope.model
    state_dict = {
        key: theta + sum(wi * tau for wi, tau in zip(w[model.slices[key]], model.taus[key], strict=True))
        for key, theta in model.theta.items()
    }  # fmt: skip
    denoise = lambda x, t, **condition: functional_call(model.model, state_dict, (x, t), condition).sample  # noqa: E731
    size, parts = slope.sampler.params.block, []
    _, first, count = WHERE
    for start in range(0, first + count, size):
        x, _ = slope.sampler.denoised(*slope.sampler.begun(denoise, WHERE[0], range(start, start + size)))
        parts.append(smooth(x))
    levels = torch.cat(parts)[first : first + count]
    scorers = (slope.scorer, *slope.scorer.beside)
    features = [one.extractor.forward(levels) for one in scorers]
    distances = [distance(one.reference, found) for one, found in zip(scorers, features, strict=True)]
    return torch.stack(distances).prod() ** (1 / len(scorers)), features, w


def distance(reference: np.ndarray, features: torch.Tensor) -> torch.Tensor:
    """The Fréchet distance in torch, by eigenvalues of the plain product: differentiated by autograd."""
    real = torch.from_numpy(np.cov(reference.T))
    values, vectors = torch.linalg.eigh(real)
    root = vectors * values.sqrt() @ vectors.T
    ours, offset = torch.cov(features.T), features.mean(0) - torch.from_numpy(reference.mean(0))
    return offset @ offset + real.trace() + ours.trace() - 2 * torch.linalg.eigvalsh(root @ ours @ root).sqrt().sum()


@pytest.mark.parametrize(
    ("kind", "step", "tolerance"),  # diffusers' DPM-Solver computes a step in float32
    [
        ("ddim", 1e-6, 1e-5),
        ("ddpm", 1e-6, 1e-5),
        ("dpm_solver", 1e-4, 1e-2),
        ("unipc", 1e-6, 1e-5),
        ("pndm", 1e-6, 1e-5),
    ],
)
def test_the_gradient_is_that_of_one_graph_and_of_differences(
    kind: str,
    step: float,
    tolerance: float,
    pipeline: Path,
    vectors: list[Path],
    in_float64: Callable[[DistanceSlope], None],
) -> None:
    """Two passes in blocks with checkpoints, against autograd from w to the distance, and against the score itself."""
    slope = slope_of(pipeline, vectors, scorer(1, (scorer(2),)), kind=kind)
    in_float64(slope)
    weights = [0.4, -0.3]
    score, features, w = smooth_score(slope, weights)
    exact = torch.autograd.grad(score, w)[0].tolist()
    scorers = (slope.scorer, *slope.scorer.beside)
    slopes = [
        SlopedReference(Moments.of(one.reference)).slopes(found.detach().numpy())
        * float(score.detach()) / (2 * FrechetReference(Moments.of(one.reference)).distance(Moments.of(found.detach())))
        for one, found in zip(scorers, features, strict=True)
    ]  # fmt: skip
    merged = slope.model.load(weights)
    found = slope.model.pulled(slope._backward(merged, WHERE[0], range(WHERE[1], sum(WHERE[1:])), slopes))
    assert found == pytest.approx(exact, rel=1e-8)
    with torch.no_grad():
        for i in range(N):
            ends = [float(smooth_score(slope, np.add(weights, sign * step * np.eye(N)[i]))[0]) for sign in (1, -1)]
            assert found[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=tolerance)
    assert max(map(abs, found)) > 1e-4


def test_the_gradient_over_the_weights_of_every_block(
    pipeline: Path, vectors: list[Path], in_float64: Callable[[DistanceSlope], None]
) -> None:
    slope = slope_of(pipeline, vectors, scorer(1), per_block=True)
    in_float64(slope)
    weights = np.linspace(-0.5, 1.0, slope.model.weights).tolist()
    score, (features,), w = smooth_score(slope, weights)
    slopes = [SlopedReference(Moments.of(slope.scorer.reference)).slopes(features.detach().numpy())]
    merged = slope.model.load(weights)
    found = slope.model.pulled(slope._backward(merged, WHERE[0], range(WHERE[1], sum(WHERE[1:])), slopes))
    assert found == pytest.approx(torch.autograd.grad(score, w)[0].tolist(), rel=1e-8, abs=1e-14)


def test_the_score_is_that_of_a_trial_and_the_model_stays(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor
) -> None:
    extractor = load_extractor(str(extractor_dir))
    target = Scorer(extractor, extractor([digits]))
    slope = slope_of(pipeline, vectors, target)
    asked = SeedBlock.SEARCH, 0, 80
    score, gradient = slope((0.5, -0.25), *asked)
    images = slope.sampler.images(lambda x, t: slope.model.load((0.5, -0.25))(x, t).sample, *asked)
    assert score == frechet(target)([images], [])
    assert len(gradient) == N and all(map(np.isfinite, gradient)) and any(gradient)
    assert not any(parameter.grad is not None for parameter in slope.model.model.parameters())
    assert slope((0.5, -0.25), *asked) == (score, gradient)


def test_grey_levels_are_rounded_forwards_and_not_backwards() -> None:
    images = torch.tensor([-1.5, -1.0, 0.1234, 0.9, 1.5], requires_grad=True)
    levels = straight_through(images)
    assert torch.allclose(levels, levels.round())
    assert levels.tolist() == pytest.approx([0, 0, 143, 242, 255])
    levels.sum().backward()
    assert images.grad is not None
    assert images.grad[[0, 2, 3, 4]].tolist() == [0, 127.5, 127.5, 0]


def test_memory_grows_neither_with_images_nor_with_steps_beside_x_t(pipeline: Path, vectors: list[Path]) -> None:
    def peak(images: int, steps: int) -> int:
        slope = slope_of(pipeline, vectors, scorer(1), steps=steps)
        rows = [np.ones((images, FEATURES))]
        merged = slope.model.load((0.5, -0.25))
        return peak_bytes(lambda: slope._backward(merged, SeedBlock.SEARCH, range(images), rows))

    peak(10, 2)
    few, many, long = peak(20, 2), peak(80, 2), peak(20, 10)
    x_t = 10 * 64 * 4  # bytes of a block's images at one step
    assert few > 20 * x_t  # the activations of a call
    assert many < few + x_t
    assert long < few + 8 * 20 * x_t  # what the graph keeps of each step: a few copies of x_t, and no activations


# What is refused


def test_fewer_than_ten_images_a_feature_are_refused_with_the_number_that_would_do(
    pipeline: Path, vectors: list[Path]
) -> None:
    message = r"^params: merge_search\.images = 39: .* 10 images a feature, .* linear1 has 4; set .*images=40 or more$"
    with pytest.raises(InputError, match=message):
        slope_of(pipeline, vectors, scorer(1))((0.0, 0.0), SeedBlock.SEARCH, 0, 39)
    check_images(40, [("linear1", 4)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "kid"}, "objective = 'kid': the method gradient follows frechet, or loss; take one of these"),
        ({"objective": "frechet+0.1*clip_score"}, "objective = 'frechet+0.1*clip_score': the method gradient follows"),
        ({"budget": 49}, "budget = 49: a gradient costs 5 × 10 images; set merge_search.budget=50 or more"),
        ({}, "method = 'gradient': a gradient through the decoder of latents is not there"),
    ],
)
def test_what_has_no_gradient_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_search(2, search_params(method="gradient", **changes), texts=not changes or "clip" in str(changes))
    assert str(refused.value).startswith(f"params: merge_search.{message}")
    if "objective" not in changes:
        check_search(2, search_params(method="gradient", objective=LOSS, **changes), texts=not changes)


def test_an_extractor_that_resizes_is_refused_before_time_is_spent(extractor_dir: Path, tmp_path: Path) -> None:
    params = search_params(method="gradient", images=80)
    check_slope(params, str(extractor_dir))
    (tmp_path / "config.json").write_text('{"_class_name": "Inception", "resize": "clean", "weights": "none"}')
    with pytest.raises(InputError, match=r"^params: merge_search\.method = 'gradient': has no slope through"):
        check_slope(params, str(tmp_path))
    with pytest.raises(InputError, match=r"has 8; set merge_search\.images=80 or more$"):
        check_slope(search_params(method="gradient", images=79, budget=1000), str(extractor_dir))
    check_slope(search_params(method="gradient", images=79, objective=LOSS), str(tmp_path))
    check_slope(search_params(method="surrogate", images=79), str(tmp_path))


def test_networks_are_differentiated_without_gradients_of_their_own(
    pipeline: Path, vectors: list[Path], extractor_dir: Path, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extractor's weights require gradients, and none may be gathered there."""
    made: list[nn.Module] = []
    build = nn.Module.eval
    monkeypatch.setattr(nn.Module, "eval", lambda self: made.append(self) or build(self))
    extractor = load_extractor(str(extractor_dir))
    slope_of(pipeline, vectors, Scorer(extractor, extractor([digits])))((0.1, 0.1), SeedBlock.SEARCH, 0, 80)
    assert made
    assert all(parameter.grad is None for model in made for parameter in model.parameters())
