"""The denoising loss as a function of w: its draws, its value by hand, and its gradient by finite differences."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N, T, peak_bytes, write_experts, write_vectors
from diffusers import DDPMScheduler
from torch import nn
from torch.func import functional_call

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.components import Condition
from deme_core.data import examples
from deme_core.data.examples import Pixels
from deme_core.data.images import to_model
from deme_core.search.loss import DenoisingLoss
from deme_core.search.objective import MergedLoss, MergedModel
from deme_core.seeds import SeedBlock, image_seed

CPU = torch.device("cpu")
PLACEMENTS = ["none", "released"]  # a foldable projection is folded before there is a task vector


class Seen(nn.Module):
    """Records what it is asked, and answers with zeros or with what `model` says."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.noisy, self.t = [], []

    def forward(self, noisy: torch.Tensor, t: torch.Tensor) -> Any:
        self.noisy.append(noisy.clone())
        self.t.append(t.clone())
        return SimpleNamespace(sample=torch.zeros_like(noisy)) if self.model is None else self.model(noisy, t)


def draws(
    loss: DenoisingLoss, count: int, block: SeedBlock = SeedBlock.SEARCH, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is asked: noisy images [count, C, H, W] and timesteps [count]."""
    loss.value(seen := Seen(), block, first, count)
    return torch.cat(seen.noisy), torch.cat(seen.t)


def noise_in(noisy: torch.Tensor, t: torch.Tensor, schedule: Any, x0: torch.Tensor) -> torch.Tensor:
    """ε of x_t = √ᾱ x_0 + √(1 − ᾱ) ε, with the one image that all draws come from."""
    a = schedule.alphas_cumprod[t][:, None, None, None]
    return (noisy - a.sqrt() * x0) / (1 - a).sqrt()


@pytest.fixture(scope="module")
def loss(digits: torch.Tensor) -> DenoisingLoss:
    return DenoisingLoss(DDPMScheduler(), Pixels(digits), CPU)


@pytest.fixture(scope="module")
def merged(
    pipeline: Path, digits: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[MergedLoss, DenoisingLoss]]:
    """Placement of the projections -> the loss of its merges, and the loss that it is made of."""
    out = {}
    for placement in PLACEMENTS:
        folder = tmp_path_factory.mktemp(placement)
        vectors = write_vectors(pipeline, write_experts(pipeline, folder / "experts", placement), folder / "vectors")
        denoising = DenoisingLoss(load_noise_schedule(pipeline), Pixels(digits), CPU)
        out[placement] = MergedLoss(MergedModel(pipeline, vectors), denoising), denoising
    return out


# The draws


def test_every_model_gets_the_same_draws(loss: DenoisingLoss, pipeline: Path) -> None:
    models = Seen(), Seen(load_denoiser(pipeline / "unet"))
    values = [loss.value(model, SeedBlock.SEARCH, 0, 30) for model in models]
    assert values[0] != values[1]
    assert torch.equal(torch.cat(models[0].noisy), torch.cat(models[1].noisy))
    assert torch.equal(torch.cat(models[0].t), torch.cat(models[1].t))


def test_other_blocks_and_other_first_draws_are_other_draws(loss: DenoisingLoss) -> None:
    found = [draws(loss, 10, block, first)[0] for block in SeedBlock for first in (0, 10)]
    assert len({noisy.numpy().tobytes() for noisy in found}) == len(found)
    assert torch.equal(draws(loss, 10, SeedBlock.SEARCH, 0)[0], found[0])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 100])
def test_a_pair_has_mirrored_timesteps_and_one_noise(digits: torch.Tensor, count: int) -> None:
    schedule = DDPMScheduler()
    noisy, t = draws(DenoisingLoss(schedule, Pixels(digits[:1]), CPU), count)
    assert len(noisy) == len(t) == count
    pairs = count // 2
    assert torch.equal(t[0 : 2 * pairs : 2] + t[1 : 2 * pairs : 2], torch.full((pairs,), T - 1))
    eps = noise_in(noisy, t, schedule, to_model(digits[:1]))
    torch.testing.assert_close(eps[0 : 2 * pairs : 2], eps[1 : 2 * pairs : 2], rtol=0, atol=1e-3)
    first = eps[::2].flatten(1)  # and every pair has its own, an odd last one too
    assert torch.pdist(first).min() > 1 if len(first) > 1 else True
    assert abs(float(eps.mean())) < 0.5 and 0.7 < float(eps.std()) < 1.3


class Grainy(Pixels):
    """Images that are random themselves, as latents are."""

    def draw(self, index: torch.Tensor, generator: torch.Generator, **how: Any) -> tuple[torch.Tensor, Condition]:
        x0, condition = super().draw(index, generator, **how)
        return x0 + torch.randn(x0.shape, generator=generator), condition


@pytest.mark.parametrize("count", [1, 12, 21])
@pytest.mark.parametrize("kind", [Pixels, Grainy])
def test_noise_that_is_drawn_batch_by_batch_is_that_of_one_draw(
    kind: type[Pixels], count: int, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "LARGEST", 5)
    schedule, of = DDPMScheduler(), kind(digits)
    noisy, t = draws(DenoisingLoss(schedule, of, CPU), count, first=7)
    generator = torch.Generator().manual_seed(image_seed(SeedBlock.SEARCH, 7))
    torch.rand(-(-count // 2), generator=generator)
    index = torch.randint(len(of), (count,), generator=generator)
    eps = torch.randn(-(-count // 2), *of.shape, generator=generator).repeat_interleave(2, 0)[:count]
    x0 = torch.cat([of.draw(part, generator)[0] for part in index.split(5)])
    assert torch.equal(noisy, schedule.add_noise(x0, eps, t))


@pytest.mark.parametrize("count", [20, 19, 100])
def test_timesteps_are_stratified(loss: DenoisingLoss, count: int) -> None:
    """Of P pairs the k-th draws from the k-th of P equal parts of [0, T); its mirror from the k-th from the end."""
    _, t = draws(loss, count)
    pairs = (count + 1) // 2
    assert (t[::2] * pairs // T).tolist() == list(range(pairs))
    assert ((T - 1 - t[1::2]) * pairs // T).tolist() == list(range(count // 2))
    assert all(0 <= when < T for when in t.tolist())


def test_images_are_drawn_from_all_that_are_given(digits: torch.Tensor) -> None:
    """Each draw is one image and its noise: two images of constant grey, both are drawn."""
    grey = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8)
    noisy, t = draws(DenoisingLoss(DDPMScheduler(), Pixels(grey), CPU), 200)
    early = noisy[t < 100].mean((1, 2, 3))  # little noise: near −1 or 1
    assert 0.25 < float((early > 0).float().mean()) < 0.75


# The value


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_value_is_the_mean_over_the_draws_by_hand(prediction: str, pipeline: Path, digits: torch.Tensor) -> None:
    schedule, x0 = DDPMScheduler(prediction_type=prediction), to_model(digits[:1])
    model = load_denoiser(pipeline / "unet").eval()
    value = DenoisingLoss(schedule, Pixels(digits[:1]), CPU).value(seen := Seen(model), SeedBlock.SEARCH, 0, 25)
    total = 0.0
    for noisy, t in zip(torch.cat(seen.noisy), torch.cat(seen.t), strict=True):
        eps = noise_in(noisy[None], t[None], schedule, x0)[0]
        a = schedule.alphas_cumprod[t]
        target = {"epsilon": eps, "sample": x0[0], "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0[0]}[prediction]
        with torch.inference_mode():
            total += float((model(noisy[None], t[None]).sample[0] - target).square().mean())
    assert value == pytest.approx(total / 25, rel=1e-4)


def test_the_size_of_a_batch_changes_neither_draws_nor_value(
    loss: DenoisingLoss, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = Seen(load_denoiser(pipeline / "unet")), Seen(load_denoiser(pipeline / "unet"))
    value = loss.value(whole, SeedBlock.SEARCH, 0, 23)
    monkeypatch.setattr(examples, "LARGEST", 5)
    assert loss.value(parts, SeedBlock.SEARCH, 0, 23) == pytest.approx(value, rel=1e-5)
    assert [len(t) for t in whole.t] == [23]
    assert [len(t) for t in parts.t] == [5, 5, 5, 5, 3]
    assert torch.equal(torch.cat(parts.noisy), torch.cat(whole.noisy))
    assert torch.equal(torch.cat(parts.t), torch.cat(whole.t))


def test_a_model_is_scored_without_dropout(loss: DenoisingLoss, pipeline: Path) -> None:
    model = load_denoiser(pipeline / "unet").train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    assert loss.value(model, SeedBlock.SEARCH, 0, 10) == loss.value(
        load_denoiser(pipeline / "unet").eval(), SeedBlock.SEARCH, 0, 10
    )


# The merged model's


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_zero_weights_have_the_pretrained_models_loss_bit_for_bit(
    placement: str, merged: dict[str, tuple[MergedLoss, DenoisingLoss]], pipeline: Path
) -> None:
    whole, denoising = merged[placement]
    whole.value((1.0, 0.5), SeedBlock.SEARCH, 0, 10)  # the model is kept from call to call
    zero = whole.value((0.0,) * N, SeedBlock.SEARCH, 0, 40)
    assert zero == denoising.value(load_denoiser(pipeline / "unet"), SeedBlock.SEARCH, 0, 40)
    assert zero != whole.value((0.5,) * N, SeedBlock.SEARCH, 0, 40)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.3, -0.4), (1.0, 1.0)])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_gradient_is_that_of_finite_differences(
    placement: str, weights: Sequence[float], merged: dict[str, tuple[MergedLoss, DenoisingLoss]]
) -> None:
    whole, _ = merged[placement]
    value, gradient = whole.gradient(weights, SeedBlock.SEARCH, 20, 40)
    assert value == pytest.approx(whole.value(weights, SeedBlock.SEARCH, 20, 40), rel=1e-5)
    step = 0.02
    for i in range(N):
        up, down = ([w + sign * step * (k == i) for k, w in enumerate(weights)] for sign in (1, -1))
        ends = [whole.value(w, SeedBlock.SEARCH, 20, 40) for w in (up, down)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02, abs=2e-4)
    assert max(map(abs, gradient)) > 1e-3


def test_the_gradient_over_the_weights_of_every_block_is_that_of_finite_differences(
    pipeline: Path, vectors: list[Path], loss: DenoisingLoss
) -> None:
    whole = MergedLoss(MergedModel(pipeline, vectors, per_block=True), loss)
    weights = np.linspace(-0.5, 1.0, N * len(whole.model.blocks))
    value, gradient = whole.gradient(tuple(weights), SeedBlock.SEARCH, 20, 40)
    assert value == pytest.approx(whole.value(tuple(weights), SeedBlock.SEARCH, 20, 40), rel=1e-5)
    for slope, step in zip(gradient, 0.02 * np.eye(len(weights)), strict=True):
        up, down = (whole.value(tuple(weights + sign * step), SeedBlock.SEARCH, 20, 40) for sign in (1, -1))
        assert slope == pytest.approx((up - down) / 0.04, rel=0.02, abs=2e-4)
    assert max(map(abs, gradient)) > 1e-3


def test_shared_weights_are_the_same_in_every_block(pipeline: Path, vectors: list[Path], loss: DenoisingLoss) -> None:
    by_block = MergedLoss(MergedModel(pipeline, vectors, per_block=True), loss)
    shared = MergedLoss(MergedModel(pipeline, vectors), loss)
    assert shared.model.blocks == []
    repeated = (0.5, -0.25) * len(by_block.model.blocks)
    asked = SeedBlock.SEARCH, 0, 20
    assert by_block.value(repeated, *asked) == shared.value((0.5, -0.25), *asked)


def test_a_gradient_leaves_the_model_as_it_was(merged: dict[str, tuple[MergedLoss, DenoisingLoss]]) -> None:
    for whole, _ in merged.values():
        before = whole.value((0.25, 0.5), SeedBlock.SEARCH, 0, 10)
        whole.gradient((1.0, 1.0), SeedBlock.SEARCH, 0, 10)
        assert whole.value((0.25, 0.5), SeedBlock.SEARCH, 0, 10) == before
        assert not any(theta.requires_grad for theta in whole.model.theta.values())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_gradient_is_that_of_one_graph_through_all_batches(
    placement: str, merged: dict[str, tuple[MergedLoss, DenoisingLoss]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, denoising = merged[placement]
    monkeypatch.setattr(examples, "LARGEST", 7)
    w = torch.tensor([0.5, -0.25], requires_grad=True)
    theta, taus = whole.model.theta, whole.model.taus
    state_dict = {key: theta[key] + sum(wi * tau for wi, tau in zip(w, taus[key], strict=True)) for key in theta}
    denoising.value(seen := Seen(), SeedBlock.SEARCH, 20, 40)
    truth = list(denoising._batches(SeedBlock.SEARCH, 20, 40))
    assert [len(batch.t) for batch in truth] == [len(t) for t in seen.t] == [7, 7, 7, 7, 7, 5]
    errors = [
        (functional_call(whole.model.model, state_dict, (batch.noisy, batch.t)).sample - batch.target)
        .square()
        .flatten(1)
        for batch in truth
    ]
    expected = torch.cat(errors).mean()
    value, gradient = whole.gradient((0.5, -0.25), SeedBlock.SEARCH, 20, 40)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    assert gradient == pytest.approx(torch.autograd.grad(expected, w)[0].tolist(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("what", ["value", "gradient"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_memory_does_not_grow_with_the_number_of_images(
    placement: str, what: str, merged: dict[str, tuple[MergedLoss, DenoisingLoss]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = getattr(merged[placement][0], what)
    monkeypatch.setattr(examples, "LARGEST", 10)
    call((0.5, -0.25), SeedBlock.SEARCH, 0, 10)
    few, many = (peak_bytes(lambda n=n: call((0.5, -0.25), SeedBlock.SEARCH, 0, n)) for n in (20, 100))
    assert few > 10**5
    assert many < few + 80 * 100  # bytes: an image's timestep and index, but neither its noise nor its graph
