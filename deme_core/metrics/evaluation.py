"""The metrics of one model's samples, with intervals, and their change against the pretrained model."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.intervals import (
    JACKKNIFE_GROUPS,
    jackknife_interval,
    paired_interval,
    t_interval,
    uncovered,
)
from deme_core.metrics.kernel import KernelReference
from deme_core.metrics.manifolds import precision_recall
from deme_core.metrics.moments import Moments, spread
from deme_core.metrics.neighbours import copy_rate
from deme_core.params import check

Metrics = dict[str, float | None]
Scores = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """Section `evaluate`."""

    blocks: int
    """Disjoint seed blocks; differences to the pretrained model are paired over them by noise."""

    def __post_init__(self) -> None:
        check(
            self.blocks >= 2,
            "evaluate.blocks",
            self.blocks,
            "must be at least 2: a t interval needs a spread",
        )


def evaluate(
    features: np.ndarray,
    pretrained: np.ndarray,
    references: dict[str, np.ndarray],
    params: EvaluateParams,
    statistics: Moments | None = None,
) -> tuple[Metrics, Scores]:
    """Flat metrics of a model, and its scores on each seed block.

    Args:
        features: [n, D] of the model's samples, in the order of their index.
        pretrained: [n, D] of the pretrained model's samples from the same seeds.
        references: part -> [m, D] of real images; `train` and, where the data set holds one out, `heldout`.
        statistics: of real images that someone else has published; gives the Fréchet distance of a part `statistics`.

    Returns:
        For each part: `frechet_*`, the plain distance at n images (what other tools print), and that of the pretrained
        model as `_pretrained`; `_corrected` with
        `_low`, `_high`: without its upward bias in n, by the jackknife over 20 groups, or null, and D as
        `feature_count`, where n is too small for it; `_change` with `_change_low`, `_change_high`: minus the
        pretrained's, paired over the seed blocks. `kid_*` likewise over the blocks (it has
        no bias). `copy_rate`, and `copy_rate_real`: the same for the held-out images, the level of no copying.
        `precision` and `recall` towards the training part, both sets cut to the size of the smaller one.
        And the scores of `Targets` of the model, so that any two models can be compared in pairs.
    """
    targets = Targets(references, statistics)
    ours, theirs = (targets.scores(rows, params.blocks) for rows in (features, pretrained))
    groups = [Moments.of(group) for group in np.split(features, JACKKNIFE_GROUPS)]
    images, count = features.shape
    covered = uncovered(images, count, params.blocks) is None
    out: Metrics = {} if covered else {"feature_count": count}
    of_model, of_pretrained = Moments.of(features), Moments.of(pretrained)
    for name, reference in targets.frechet.items():
        out[name] = reference.distance(of_model)
        out[f"{name}_pretrained"] = reference.distance(of_pretrained)
        freed = jackknife_interval(reference.distance, groups) if covered else None
        out[f"{name}_corrected"] = freed.value if freed else None
        out |= {f"{name}_low": freed.low if freed else None, f"{name}_high": freed.high if freed else None}
        out |= paired_interval(ours[name], theirs[name]).named(f"{name}_change")
    for name in targets.kernel:
        out |= t_interval(ours[name]).named(name)
        out |= paired_interval(ours[name], theirs[name]).named(f"{name}_change")
    out["copy_rate"] = copy_rate(features, references["train"])
    if "heldout" in references:
        out["copy_rate_real"] = copy_rate(references["heldout"], references["train"])
    size = min(len(features), len(references["train"]))
    out["precision"], out["recall"] = precision_recall(spread(references["train"], size), spread(features, size))
    return out, ours


def protocol_of(
    made: Mapping[str, Any], params: EvaluateParams, reference_images: int, published: str | None, judges: str
) -> dict[str, Any]:
    """What stands beside the metrics, as flat keys.

    Args:
        made: the protocol that the stage sample wrote, with the extractor's name and hash.
        published: name of somebody else's reference statistics.
        judges: name and hash of the group.
    """
    return {
        "images": made["images"],
        "seed_block": made["seed_block"],
        "seed_blocks": params.blocks,
        "reference_images": reference_images,
        "extractor": f"{made['extractor']}-{made['extractor_sha256'][:8]}",
        "judges": judges,
        **({"reference_statistics": published} if published else {}),
        **{f"sampler_{key}": value for key, value in made["sampler"].items()},
        "device": made["device"],
        "parameters": made["parameters"],
        "macs_per_step": made["macs_per_step"],
    }


class Targets:
    """What samples are compared with, each factored once: `frechet_*` and `kid_*` of every part."""

    def __init__(self, references: dict[str, np.ndarray], statistics: Moments | None = None) -> None:
        self.frechet = {f"frechet_{part}": FrechetReference(Moments.of(real)) for part, real in references.items()}
        if statistics is not None:
            self.frechet["frechet_statistics"] = FrechetReference(statistics)
        self.kernel = {f"kid_{part}": KernelReference(real) for part, real in references.items()}

    def scores(self, features: np.ndarray, blocks: int) -> Scores:
        """Of each seed block, a list of `blocks` plain values each."""
        parts = np.split(features, blocks)
        scores = {name: [to.distance(Moments.of(rows)) for rows in parts] for name, to in self.frechet.items()}
        return scores | {name: [to.distance(rows) for rows in parts] for name, to in self.kernel.items()}


def check_samples(images: int, blocks: int, features: int | None = None) -> None:
    """The seed blocks and the groups of the jackknife must be equal, and large enough for a covariance.

    Too few of them for the number of features, where it is known, are warned of.
    """
    unit = math.lcm(blocks, JACKKNIFE_GROUPS)
    check(
        images % unit == 0 and images >= 2 * unit, "sample.images", images,
        f"must be a multiple of {unit} ({blocks} seed blocks, {JACKKNIFE_GROUPS} groups of the jackknife), at least"
        f" {2 * unit}",
    )  # fmt: skip
    if features and (note := uncovered(images, features, blocks)):
        print(f"warning: {note}", file=sys.stderr)
