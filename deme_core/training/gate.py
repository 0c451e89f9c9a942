"""The gate between training and search: has each expert learned its own range? By losses on the part `validation`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from deme_core.checkpoints import denoiser_dir, denoisers, load_noise_schedule
from deme_core.data.examples import Examples
from deme_core.data.some_examples import SomeExamples
from deme_core.errors import InputError
from deme_core.metrics.intervals import t_interval
from deme_core.params import check
from deme_core.timesteps import TimestepRanges, span_name
from deme_core.training.range_losses import model_losses

BASE = "pretrained"
NOT_MEASURED = pd.DataFrame(
    columns=["expert", "range", "against", "loss", "loss_against", "change", "low", "high", "wins", "loss_trained"]
)
BY_HEART = 0.1  # a model whose training images lie further below others, as a share of the loss, has memorised them


@dataclass(frozen=True, kw_only=True)
class GateParams:
    """Section `gate`."""

    draws: int
    """Timesteps and noises for every validation image and range."""
    must_win: Literal["stop", "warn", "ignore"]
    """What an expert does that does not beat the base on its own range: end the run before the search, stand in
    capitals in the report, or nothing."""

    def __post_init__(self) -> None:
        check(self.draws >= 1, "gate.draws", self.draws, "must be at least 1")


def check_gate(params: GateParams, held_out: float | None, validation: float) -> None:
    """Refuse a gate without images to measure by."""
    if params.must_win != "ignore" and (held_out == 0 or validation == 0):
        what, value = ("data.validation", validation) if held_out != 0 else ("data.held_out", held_out)
        raise InputError(
            f"params: gate.must_win = {params.must_win!r}: the gate measures by the part `validation`, and {what} ="
            f" {value} leaves it no image; hold some out, or set gate.must_win=ignore"
        )


def measure_experts(
    examples: Examples, trained: Examples, pretrained: Path, experts: Path, others: Mapping[str, Path], draws: int,
    device: torch.device,
) -> pd.DataFrame:  # fmt: skip
    """`compare_experts` of the experts in a folder, beside the base and `others`, name -> folder of a denoiser.

    Args:
        examples: the part `validation`; `trained`: the part `train`, of which as many are measured.
    """
    folders, ranges = denoisers(experts)
    assert ranges is not None, "experts carry their ranges"
    if len(examples) < 2:
        raise InputError(
            f"gate: {len(examples)} images in the part `validation`, of which there is no interval; raise data.held_out"
            " or data.validation, or set gate.must_win=ignore"
        )
    schedule = load_noise_schedule(pretrained)
    measured = partial(model_losses, noise_schedule=schedule, ranges=ranges, draws=draws, device=device)
    models = {BASE: denoiser_dir(pretrained), **others}
    compared, known = (measured(models, examples=part) for part in (examples, SomeExamples(trained, len(examples))))
    losses = [measured({"": folder}, examples=examples, which=[i])[""][0] for i, folder in enumerate(folders, 1)]
    return compare_experts(losses, compared, known, ranges)


def compare_experts(
    experts: Sequence[np.ndarray], others: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray],
    ranges: TimestepRanges,
) -> pd.DataFrame:  # fmt: skip
    """Every expert's loss on its own range against that of other models, paired over images and noise.

    Args:
        experts: N times [n], `image_losses` of expert i on range i.
        others: model -> [N, n] of `image_losses`; `known`: the same over images that it was trained on.

    Returns:
        A row an expert and model that it is compared with: `expert`, `range`, `against`, `loss`, `loss_against`, the
        `change` in percent of the other's loss with the ends of its 95 % interval over images, `low` and `high`, and
        whether the expert `wins`: the interval lies below 0; and `loss_trained`, the other's over its training images.
    """
    rows = []
    for other, theirs in others.items():
        for i, (ours, base) in enumerate(zip(experts, theirs, strict=True), 1):
            change = t_interval(100 * (ours - base) / base.mean())
            bounds = span_name(ranges.range(i))
            rows.append([i, bounds, other, ours.mean(), base.mean(), change.value, change.low, change.high])
            rows[-1] += [change.high < 0, known[other][i - 1].mean()]
    return pd.DataFrame(rows, columns=NOT_MEASURED.columns)


def winners(table: pd.DataFrame) -> str:
    """How many experts beat the base on their own range, in words."""
    wins = table.loc[table["against"] == BASE, "wins"]
    return f"{int(wins.sum())} of {len(wins)} beat the base on their own range" if len(wins) else "not measured"


def refuse_losers(table: pd.DataFrame) -> None:
    """End the run where an expert does not beat the base on its own range.

    Raises:
        InputError: it names each such expert, its interval, and what to try.
    """
    if len(lost := table[(table["against"] == BASE) & ~table["wins"].astype(bool)]):
        found = "; ".join(
            f"expert {row.expert} on {row.range}: {row.change:+.2f} % [{row.low:+.2f}, {row.high:+.2f}]"
            for row in lost.itertuples()
        )
        remedy = (
            "Lower finetune_range.learning_rate, raise finetune_range.iterations, lower finetune_range.consistency or"
            " p, or set gate.must_win=warn"
        )
        known = 1 - lost["loss_trained"] / lost["loss_against"]
        if known.max() > BY_HEART:
            remedy = (
                f"The base's loss is {100 * known.max():.0f} % lower on images that it was trained on: it knows them by"
                " heart, and more training on them cannot help. Take more images (data), a smaller base or one trained"
                " for fewer steps, or directions=[range,self] with gate.must_win=warn"
            )
        raise InputError(
            f"gate: {len(lost)} of {table['expert'].nunique()} experts do not lower the base's validation loss on their"
            f" own range ({found}); nothing was searched and the experts are kept. {remedy}"
        )
