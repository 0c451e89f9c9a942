"""Does the untouched pretrained model reproduce a published figure? If not, no claim on top of it is comparable."""

from dataclasses import dataclass
from typing import Any, Literal

from deme_core.errors import InputError
from deme_core.params import check


@dataclass(frozen=True, kw_only=True)
class CalibrateParams:
    """Section `calibrate`."""

    value: float | None
    """The published figure of the pretrained model; null skips the calibration."""
    source: str | None
    """Who published it, and where."""
    metric: Literal["frechet_train", "frechet_heldout", "frechet_statistics", "kid_train", "kid_heldout"] = (
        "frechet_train"
    )
    """The key of metrics/pretrained.json that it is compared with; `…_statistics` is to `reference.statistics`."""
    tolerance: float = 0.05
    """Share of the figure by which the model may differ from it, above 0."""

    def __post_init__(self) -> None:
        check(self.value is None or self.value > 0, "calibrate.value", self.value, "must be null or above 0")
        check(
            (self.value is None) == (self.source is None), "calibrate.source", self.source,
            "names who published calibrate.value; give both or neither",
        )  # fmt: skip
        check(0 < self.tolerance < 1, "calibrate.tolerance", self.tolerance, "must lie in (0, 1), as 0.05 for 5 %")


def calibrate(metrics: dict[str, Any], params: CalibrateParams) -> dict[str, Any]:
    """The comparison as JSON: `reproduces`, and `message`, one line for people; both null where it is skipped."""
    if params.value is None:
        return {"reproduces": None, "message": None}
    if not isinstance(metrics.get(params.metric), float):
        known = sorted(key for key, value in metrics.items() if isinstance(value, float))
        raise InputError(f"params: calibrate.metric = {params.metric!r}: no such metric; known are {', '.join(known)}")
    measured = metrics[params.metric]
    change = measured / params.value - 1
    reproduces = abs(change) <= params.tolerance
    figures = (
        f"the pretrained model's {params.metric} is {measured:.4g} under this protocol, the published figure is"
        f" {params.value:.4g} ({params.source}): {100 * change:+.1f} %, tolerance {100 * params.tolerance:.3g} %"
    )
    message = f"Calibration: {figures}."
    if not reproduces:
        message = (
            f"**Warning: the base does not reproduce.** {figures[0].upper()}{figures[1:]}. No number here is comparable"
            " with published ones before checkpoint, sampler, spacing, number of images, extractor and reference agree."
        )
    return {"reproduces": reproduces, "message": message}
