"""Loss weights over the timesteps: those of Eq. 11-14, and the loss that a merge amounts to."""

from collections.abc import Sequence
from typing import Any

import torch

from deme_core.errors import InputError
from deme_core.timesteps import TimestepRanges

# Weights on ‖x_0 − x_θ(x_t, t)‖², to which every loss is brought (Appendix A.1). Eq. 11, the plain one, is SNR itself.
WEIGHTINGS = {
    "snr_plus_one": lambda snr, gamma: snr + 1,  # Eq. 12 (Salimans & Ho 2022)
    "truncated_snr": lambda snr, gamma: snr.clamp(min=1),  # Eq. 13 (Salimans & Ho 2022)
    "min_snr": lambda snr, gamma: snr.clamp(max=gamma),  # Eq. 14 (Hang et al. 2023)
}


def signal_to_noise(noise_schedule: Any) -> torch.Tensor:
    """SNR(t) = ᾱ_t / (1 − ᾱ_t) for t = 0 … T − 1, float64 [T]."""
    signal = noise_schedule.alphas_cumprod.double()
    return signal / (1 - signal)


def weighting(name: str, noise_schedule: Any, gamma: float) -> torch.Tensor:
    """The weight on the loss of the schedule's own prediction type that equals a row of WEIGHTINGS. float64 [T].

    ‖x_0 − x_θ‖² is ‖ε − ε_θ‖² / SNR and ‖v − v_θ‖² / (SNR + 1) (Appendix A.1).

    Raises:
        InputError: the weight on ‖ε − ε_θ‖² is infinite, where SNR = 0.
    """
    snr = signal_to_noise(noise_schedule)
    weights = WEIGHTINGS[name](snr, gamma)
    prediction = noise_schedule.config.prediction_type
    if prediction == "sample":
        return weights
    if prediction == "v_prediction":
        return weights / (snr + 1)
    if name == "min_snr":
        return (gamma / snr).clamp(max=1)  # min(SNR, γ) / SNR, finite at SNR = 0 too
    if bool((snr == 0).any()):
        raise InputError(
            f"baseline {name}: its weight on the noise loss is infinite at t = {int((snr == 0).nonzero()[0])},"
            " where this schedule leaves no signal (SNR = 0); take it out of `baselines`, or start from a model with"
            " v-prediction"
        )
    return weights / snr


def merge_equivalent_weights(ranges: TimestepRanges, p: float, weights: Sequence[float]) -> torch.Tensor:
    """w(t) ∝ p Σ_i w_i / T + (1 − p) w_{range of t} / (length of that range), of mean 1 over t (Appendix A.2).

    To first order, merging experts with these weights is a finetune with this loss, constant on each range: expert i
    draws its t from Eq. 6. With w = 0 there is no loss: w(t) = 0.

    Raises:
        InputError: a merge weight is negative, and so would be a loss.
    """
    if min(weights) < 0:
        raise InputError(
            f"baseline loss_equivalent: merge weights {list(weights)} hold a negative one, which no loss can stand for;"
            " take it out of `baselines`, or search over weights of at least 0"
        )
    assert len(weights) == ranges.N, "one merge weight a range"
    density = torch.full((ranges.T,), p * sum(weights) / ranges.T, dtype=torch.float64)
    for i, w in enumerate(weights, 1):
        low, high = ranges.range(i)
        density[low:high] += (1 - p) * w / (high - low)
    return density if not any(weights) else density / density.mean()
