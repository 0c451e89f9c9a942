"""What the judges say of a model beside another: ratios of distances, paired over seed blocks.

The distance of the base differs between blocks by more than models do, so that the unit is the logarithm of the ratio
on the same noise; its mean over judges is the geometric mean of their ratios.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval, block_interval

JUDGE = "judge_"  # before the name of a judge, in scores and metrics


@dataclass(frozen=True, kw_only=True)
class JudgeParams:
    """Section `judges`: two fixed groups, each a folder that holds one extractor a folder."""

    folder: str
    """The group that this run is measured by: the final one, or the development one while settings are chosen."""
    development: str
    """The group that settings may be chosen by."""

    @property
    def group(self) -> str:
        """What a message calls the group in use."""
        return "development judges" if self.folder == self.development else "final judges"


@dataclass(frozen=True)
class Verdict:
    """Changes in percent, negative where the model is better."""

    change: Interval
    """The geometric mean of all judges."""
    judges: dict[str, Interval]

    @property
    def worst(self) -> str:
        """The judge that likes the model least."""
        return max(self.judges, key=lambda name: self.judges[name].value)

    @property
    def against(self) -> list[str]:
        """Judges whose interval does not lie below 0; the model is better only where there is none."""
        return [name for name, interval in self.judges.items() if interval.high >= 0]

    @property
    def better(self) -> bool:
        """Every judge sees a gain beyond its interval."""
        return not self.against

    @property
    def worse(self) -> bool:
        """The mean of all judges lies above 0 beyond its interval."""
        return self.change.low > 0


def log_ratios(
    ours: Mapping[str, ArrayLike], theirs: Mapping[str, ArrayLike], part: str, judges: Iterable[str]
) -> dict[str, np.ndarray]:
    """Judge -> log(our distance / their distance) of each seed block, on a part of the real images.

    Args:
        ours, theirs: JUDGE_PART -> distances, [K] of one training or [S, K] of several, as the ratios are.

    Raises:
        InputError: a distance is not above 0, so that it has no ratio; or the two were not measured in the same
            trainings and blocks.
    """
    found = {}
    for judge in judges:
        pair = [np.asarray(scores[f"{judge}_{part}"], dtype=np.float64) for scores in (ours, theirs)]
        if pair[0].shape != pair[1].shape:
            shapes = " and ".join(" × ".join(map(str, values.shape)) for values in pair)
            raise InputError(
                f"judge {judge}: two models have {shapes} distances on the {part} part, and are compared in the same"
                " trainings and seed blocks; measure both in all of them"
            )
        if not all((values > 0).all() for values in pair):
            raise InputError(
                f"judge {judge}: a distance on the {part} part is not above 0, so that it has no ratio; raise"
                " sample.images"
            )
        found[judge] = np.log(pair[0] / pair[1])
    return found


def verdict_of(ratios: Mapping[str, np.ndarray]) -> Verdict:
    """The verdict by the log ratios of each judge, [K] or [S, K]."""
    return Verdict(
        percent(block_interval(np.mean(list(ratios.values()), axis=0))),
        {judge: percent(block_interval(logs)) for judge, logs in ratios.items()},
    )


def percent(log_ratio: Interval) -> Interval:
    """A log ratio as a change in percent."""
    return Interval(*(100 * math.expm1(end) for end in (log_ratio.value, log_ratio.low, log_ratio.high)))


def judged_metrics(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], judges: Sequence[str], parts: Iterable[str]
) -> dict[str, float | str]:
    """The verdict against the pretrained model as flat metrics, changes in percent.

    Args:
        ours, theirs: JUDGE_PART -> the distance of each seed block.

    Returns:
        For each part: `judges_PART_change` with `_low` and `_high`; `judges_PART_worst`, the judge that likes the model
        least; and for each judge `judge_NAME_PART` (mean distance of a block) and its `_change` with ends.
    """
    out: dict[str, float | str] = {}
    for part in parts:
        verdict = verdict_of(log_ratios(ours, theirs, part, judges))
        out |= verdict.change.named(f"judges_{part}_change")
        out[f"judges_{part}_worst"] = verdict.worst
        for judge, change in verdict.judges.items():
            out[f"{JUDGE}{judge}_{part}"] = float(np.mean(ours[f"{judge}_{part}"]))
            out |= change.named(f"{JUDGE}{judge}_{part}_change")
    return out
