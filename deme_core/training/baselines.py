"""The finetunes that DeMe is compared with: all timesteps, for as many steps as all experts (see deme_core.dag)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deme_core.checkpoints import load_noise_schedule
from deme_core.dag import LOSS_EQUIVALENT, SOUP_FULL_RANGE
from deme_core.data.examples import Examples
from deme_core.params import check
from deme_core.seeds import step_seed
from deme_core.stage import RunParams
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import Curve, finetune
from deme_core.training.settings import TrainingParams
from deme_core.training.weighting import WEIGHTINGS, merge_equivalent_weights, weighting
from deme_core.work import ROOT


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


def finetune_baseline(
    name: str,
    pretrained: Path,
    examples: Examples,
    ranges: TimestepRanges,
    p: float,
    params: TrainingParams,
    baseline: BaselineParams,
    out: Path,
    *,
    seed: int,
    validation: Examples | None = None,
    merge_weights: Sequence[float] | None = None,
    checkpoints: Path = ROOT,
) -> list[Curve]:
    """Train a baseline; its denoisers are written to out/1 … out/K.

    K is 1, but N for the soup. Full-range baselines have neither teacher nor projection: nothing of DeMe but its
    optimizer, EMA, batches and steps. `loss_equivalent` keeps teacher and projection, and differs from the merge only
    in being one training.

    Args:
        params: those of one expert; steps are multiplied by N, but for the members of the soup.
        merge_weights: the searched w, for `loss_equivalent`.
        validation: as in `finetune`.

    Returns:
        The curve of each member's loss.
    """
    plain = replace(params, consistency=0.0, projection="none")
    longer = params.iterations * ranges.N
    members, settings, weights = 1, replace(plain, iterations=longer), None
    if name == SOUP_FULL_RANGE:
        members, settings = ranges.N, plain
    elif name in WEIGHTINGS:
        weights = weighting(name, load_noise_schedule(pretrained), baseline.gamma)
    elif name == LOSS_EQUIVALENT:
        assert merge_weights is not None, "loss_equivalent needs the searched weights"
        settings = replace(params, iterations=longer)
        weights = merge_equivalent_weights(ranges, p, merge_weights)
    recipe = {"baseline": name, "merge_weights": merge_weights and list(merge_weights), "gamma": baseline.gamma}
    curves = []
    for k in range(1, members + 1):
        label, own_seed = f"{name} {k} of {members}", step_seed(seed, name, k) if members > 1 else seed
        curve = finetune(
            pretrained, examples, settings, out / str(k), own=(0, ranges.T), p=0.0, seed=own_seed, label=label,
            recipe=recipe | {"bounds": [0, ranges.T], "range": 1, "p": 0.0, "seed": seed, "member": k},
            loss_weights=weights, validation=validation, checkpoints=checkpoints,
        )  # fmt: skip
        curves.append(curve)
    return curves
