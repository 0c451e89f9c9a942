"""Loss weights: the reweighted ones by hand and against Appendix A.1, and the loss that a merge amounts to."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from deme_core.denoising import denoising_loss, regression_target
from deme_core.errors import InputError
from deme_core.timesteps import TimestepRanges, draw_timesteps
from deme_core.training.weighting import WEIGHTINGS, merge_equivalent_weights, signal_to_noise, weighting

GAMMA = 5.0
KINDS = ("epsilon", "v_prediction", "sample")
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def zero_terminal(kind: str) -> DDPMScheduler:
    """A schedule whose last timestep is noise alone."""
    schedule = DDPMScheduler(prediction_type=kind, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert float(schedule.alphas_cumprod[999]) == 0 < float(schedule.alphas_cumprod[998])
    return schedule


# The baselines


def test_the_signal_to_noise_ratio_is_that_of_the_betas() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    signal = np.cumprod(1 - betas)
    found = signal_to_noise(DDPMScheduler(**SCHEDULES["linear"]))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), signal / (1 - signal), rtol=1e-3)  # the schedule holds ᾱ in float32


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("epsilon", "snr_plus_one", [10 / 9, 2, 4, 10]),
        ("epsilon", "truncated_snr", [1, 1, 3, 9]),
        ("epsilon", "min_snr", [5 / 9, 1, 1, 1]),
        ("v_prediction", "snr_plus_one", [1, 1, 1, 1]),
        ("v_prediction", "truncated_snr", [9 / 10, 1 / 2, 3 / 4, 9 / 10]),
        ("v_prediction", "min_snr", [5 / 10, 1 / 2, 1 / 4, 1 / 10]),
        ("sample", "snr_plus_one", [10, 2, 4 / 3, 10 / 9]),
        ("sample", "truncated_snr", [9, 1, 1, 1]),
        ("sample", "min_snr", [5, 1, 1 / 3, 1 / 9]),
    ],
)
def test_baselines_by_hand(kind: str, name: str, expected: list[float]) -> None:
    """ᾱ is 0.9, 0.5, 0.25 and 0.1: SNR is 9, 1, 1/3 and 1/9."""
    betas = [0.1, 1 - 0.5 / 0.9, 0.5, 0.6]
    schedule = DDPMScheduler(num_train_timesteps=4, trained_betas=betas, prediction_type=kind)
    weights = weighting(name, schedule, GAMMA)
    assert (weights.dtype, tuple(weights.shape)) == (torch.float64, (4,))
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_weights_are_those_of_equations_12_to_14_at_every_timestep(name: str, schedule: str) -> None:
    signal = DDPMScheduler(**SCHEDULES[schedule]).alphas_cumprod.double().numpy()
    snr = signal / (1 - signal)
    on_x0 = {"snr_plus_one": snr + 1, "truncated_snr": np.maximum(snr, 1), "min_snr": np.minimum(snr, GAMMA)}[name]
    for kind, share in zip(KINDS, (snr, snr + 1, 1), strict=True):
        weights = weighting(name, DDPMScheduler(prediction_type=kind, **SCHEDULES[schedule]), GAMMA)
        np.testing.assert_allclose(weights.numpy(), on_x0 / share, rtol=1e-12)


def test_gamma_reaches_the_weights() -> None:
    schedule = DDPMScheduler()
    snr = signal_to_noise(schedule)
    for gamma in (1.0, 20.0):
        weights = weighting("min_snr", schedule, gamma)
        assert torch.equal(weights == 1, snr <= gamma)
        assert torch.allclose(weights[snr > gamma] * snr[snr > gamma], torch.tensor(gamma, dtype=torch.float64))


def predictions(schedule: DDPMScheduler) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """The truth and a wrong prediction of it, as ε, v and x_0, at every timestep; float64 [T, 1, 4, 4] each, and t."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, wrong = torch.randn(3, 1000, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.arange(1000)
    xt = schedule.add_noise(x0, noise, t)
    signal = schedule.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    implied = (xt - signal.sqrt() * wrong) / (1 - signal).sqrt()
    truth = {"epsilon": noise, "v_prediction": schedule.get_velocity(x0, noise, t), "sample": x0}
    guess = {"epsilon": implied, "v_prediction": schedule.get_velocity(wrong, implied, t), "sample": wrong}
    return truth, guess, t


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_identities_of_appendix_a1(schedule: str) -> None:
    """‖ε − ε̂‖² = SNR ‖x_0 − x̂_0‖² and ‖v − v̂‖² = (SNR + 1) ‖x_0 − x̂_0‖²."""
    schedule = DDPMScheduler(**SCHEDULES[schedule])
    truth, guess, _ = predictions(schedule)
    noise, velocity, image = ((truth[kind] - guess[kind]).square().flatten(1).sum(1) for kind in KINDS)
    snr = signal_to_noise(schedule)
    torch.testing.assert_close(noise, snr * image, rtol=1e-9, atol=0)
    torch.testing.assert_close(velocity, (snr + 1) * image, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighted_loss_is_the_same_whatever_the_network_predicts(name: str, schedule: str) -> None:
    losses = {}
    for kind in KINDS:
        scheduler = DDPMScheduler(prediction_type=kind, **SCHEDULES[schedule])
        truth, guess, t = predictions(scheduler)
        target = regression_target(scheduler, truth["sample"], truth["epsilon"], t)
        losses[kind] = weighting(name, scheduler, GAMMA) * denoising_loss(guess[kind], target)
    for kind in ("epsilon", "v_prediction"):
        torch.testing.assert_close(losses[kind], losses["sample"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["snr_plus_one", "truncated_snr"])
def test_a_weight_that_is_infinite_is_refused_in_words(name: str) -> None:
    message = (
        f"baseline {name}: its weight on the noise loss is infinite at t = 999, where this schedule leaves no signal"
        r" \(SNR = 0\); take it out of `baselines`, or start from a model with v-prediction"
    )
    with pytest.raises(InputError, match=message):
        weighting(name, zero_terminal("epsilon"), GAMMA)


@pytest.mark.parametrize(
    ("kind", "name", "last"),
    [
        ("epsilon", "min_snr", 1),  # min(SNR, γ) / SNR, not γ / 0
        ("v_prediction", "min_snr", 0),
        ("v_prediction", "snr_plus_one", 1),
        ("v_prediction", "truncated_snr", 1),
        ("sample", "min_snr", 0),
        ("sample", "snr_plus_one", 1),
        ("sample", "truncated_snr", 1),
    ],
)
def test_every_other_weight_is_finite_without_signal(kind: str, name: str, last: float) -> None:
    weights = weighting(name, zero_terminal(kind), GAMMA)
    assert bool(weights.isfinite().all())
    assert float(weights[-1]) == last


# The loss that a merge amounts to


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("weights", [(0.7,), (0.5, 0.25), (1.0, 0.0), (0.1, 0.1, 0.2, 0.5)])
def test_for_equal_ranges_the_weights_are_those_of_the_formula(weights: tuple[float, ...], p: float) -> None:
    """w(t) ∝ p Σ w_i / T + (1 − p) N w_range(t) / T, of mean 1."""
    N, T = len(weights), 1000
    formula = np.array([p * sum(weights) / T + (1 - p) * N * weights[t * N // T] / T for t in range(T)])
    found = merge_equivalent_weights(TimestepRanges.equal(N, T), p, weights)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), formula / formula.mean(), rtol=1e-12)


def test_two_equal_ranges_by_hand() -> None:
    """Densities 0.4 · 0.75 / 10 + 0.6 · (0.5, 0.25) / 5 = 0.09, 0.06."""
    found = merge_equivalent_weights(TimestepRanges.equal(2, 10), 0.4, [0.5, 0.25])
    assert found.tolist() == pytest.approx([1.2] * 5 + [0.8] * 5)


def test_unequal_boundaries_by_hand() -> None:
    """Densities 0.5 · 1.5 / 10 + 0.5 · (1 / 2, 0.5 / 8) = 0.325, 0.10625, in all 2 · 0.325 + 8 · 0.10625 = 1.5."""
    found = merge_equivalent_weights(TimestepRanges((0, 2, 10)), 0.5, [1.0, 0.5])
    assert found.tolist() == pytest.approx([3.25 / 1.5] * 2 + [1.0625 / 1.5] * 8)


def test_equal_weights_of_equal_ranges_are_the_plain_loss() -> None:
    for p in (0.0, 0.4):
        found = merge_equivalent_weights(TimestepRanges.equal(4, 1000), p, [0.25] * 4)
        assert found.tolist() == pytest.approx([1.0] * 1000)


def test_without_merge_weights_there_is_no_loss() -> None:
    assert not merge_equivalent_weights(TimestepRanges.equal(4, 1000), 0.4, [0.0] * 4).any()


def test_a_negative_merge_weight_is_refused() -> None:
    message = (
        r"merge weights \[0\.5, -0\.1\] hold a negative one, which no loss can stand for; take it out of `baselines`"
    )
    with pytest.raises(InputError, match=message):
        merge_equivalent_weights(TimestepRanges.equal(2, 1000), 0.4, [0.5, -0.1])


def density(trained: tuple[int, int], T: int, p: float) -> np.ndarray:
    """P(t) of Eq. 6."""
    t = np.arange(T)
    return p / T + (1 - p) * ((trained[0] <= t) & (t < trained[1])) / (trained[1] - trained[0])


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("trained", [(0, 3), (3, 12)])
def test_the_density_of_equation_6_is_that_of_the_draw(trained: tuple[int, int], antithetic: bool) -> None:
    n, T, p = 200_000, 12, 0.4
    t = draw_timesteps(n, trained, T, p, antithetic=antithetic, generator=torch.Generator().manual_seed(0))
    expected = density(trained, T, p)
    error = 5 * np.sqrt(expected * (1 - expected) / (n / 2 if antithetic else n))
    assert (abs(np.bincount(t, minlength=T) / n - expected) < error).all()


@given(data=st.data(), p=st.floats(0, 1), N=st.integers(1, 5))
def test_the_weighted_uniform_draw_expects_what_the_experts_draws_expect(data: st.DataObject, p: float, N: int) -> None:
    """E over uniform t of w(t) f(t) = Σ w_i E over Eq. 6's draw of range i of f(t), over Σ w_i, for any f."""
    T = 30
    inner = data.draw(st.lists(st.integers(1, T - 1), min_size=N - 1, max_size=N - 1, unique=True))
    bounds = (0, *sorted(inner), T)
    weights = data.draw(st.lists(st.floats(0, 2), min_size=N, max_size=N).filter(lambda w: sum(w) > 1e-3))
    f = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=T, max_size=T)))
    experts = sum(w * (density(trained, T, p) @ f) for w, trained in zip(weights, pairwise(bounds), strict=True))
    found = merge_equivalent_weights(TimestepRanges(bounds), p, weights).numpy()
    assert (found * f).mean() == pytest.approx(experts / sum(weights), rel=1e-9, abs=1e-9)
    assert found.mean() == pytest.approx(1)
