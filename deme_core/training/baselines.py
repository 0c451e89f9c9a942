"""The finetunes that DeMe is compared with: all timesteps, for as many steps as all experts (see deme_core.dag)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deme_core.dag import LOSS_EQUIVALENT, SOUP_FULL_RANGE
from deme_core.params import check
from deme_core.seeds import step_seed
from deme_core.stage import RunParams
from deme_core.timesteps import TimestepRanges
from deme_core.training.job import Job
from deme_core.training.weighting import WEIGHTINGS, merge_equivalent_weights, weighting


@dataclass(frozen=True, kw_only=True)
class BaselineParams:
    """Section `finetune_baseline`; everything else is as `finetune_range` has it."""

    gamma: float
    """Of Min-SNR-γ (Eq. 14); its authors' value is 5."""

    def __post_init__(self) -> None:
        check(0 < self.gamma < float("inf"), "finetune_baseline.gamma", self.gamma, "must be a finite number above 0")


def check_baselines(baselines: Sequence[str], noise_schedule: Any, params: BaselineParams) -> None:
    """Refuse baselines whose loss weights are infinite on this noise schedule, before any training."""
    for name in filter(WEIGHTINGS.__contains__, baselines):
        weighting(name, noise_schedule, params.gamma)


def check_schedule(noise_schedule: Any, run: RunParams, params: BaselineParams, steps: int) -> None:
    """Refuse ranges, baselines or sampling steps that do not fit a noise schedule, before any time is spent."""
    T = noise_schedule.config.num_train_timesteps
    TimestepRanges.of(run.N, T, run.boundaries)
    check_baselines(run.baselines, noise_schedule, params)
    check(steps <= T, "sampler.steps", steps, f"must be at most T = {T}")


def baseline_jobs(
    name: str,
    expert: Job,
    noise_schedule: Any,
    params: BaselineParams,
    merge_weights: Sequence[float] | None = None,
) -> list[Job]:
    """The trainings of a baseline: one, but N for the soup.

    Full-range baselines have neither teacher nor projection: nothing of DeMe but its optimizer, EMA, batches and steps.
    `loss_equivalent` keeps teacher and projection, and differs from the merge only in being one training.

    Args:
        expert: that of any range. A baseline makes N times its steps, but for the members of the soup.
        merge_weights: the searched w, for `loss_equivalent`.
    """
    ranges, plain = expert.ranges, replace(expert.settings, consistency=0.0, projection="none")
    longer = plain.iterations * ranges.N
    members, settings, weights = 1, plain.of_length(longer), None
    if name == SOUP_FULL_RANGE:
        members, settings = ranges.N, plain
    elif name in WEIGHTINGS:
        weights = weighting(name, noise_schedule, params.gamma)
    elif name == LOSS_EQUIVALENT:
        assert merge_weights is not None, "loss_equivalent needs the searched weights"
        settings = expert.settings.of_length(longer)
        weights = merge_equivalent_weights(ranges, expert.p, merge_weights)
    facts = {"baseline": name, "merge_weights": merge_weights and list(merge_weights), "gamma": params.gamma}
    return [
        Job(
            label=f"{name} {k} of {members}", ranges=TimestepRanges.equal(1, ranges.T), settings=settings,
            seed=step_seed(expert.seed, name, k) if members > 1 else expert.seed, loss_weights=weights,
            facts=facts | {"seed": expert.seed, "member": k},  # a member's seed follows from that of the run
        )
        for k in range(1, members + 1)
    ]  # fmt: skip
