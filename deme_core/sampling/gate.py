"""The gate between training and search: has each expert learned its own range? By losses on the part `validation`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deme_core.checkpoints import denoiser_dir, load_denoiser, load_noise_schedule
from deme_core.data.examples import Examples
from deme_core.errors import InputError
from deme_core.metrics.intervals import t_interval
from deme_core.sampling.generate import single
from deme_core.sampling.loss_matrix import image_losses
from deme_core.sampling.sample import denoisers
from deme_core.timesteps import TimestepRanges

BASE = "pretrained"
NOT_MEASURED = pd.DataFrame(columns=["expert", "range", "against", "loss", "loss_against", "change", "low", "high"])


def measure_experts(
    examples: Examples, pretrained: Path, experts: Path, others: Mapping[str, Path], draws: int, device: torch.device
) -> pd.DataFrame:
    """`compare_experts` of the experts in a folder, beside the base and `others`, name -> folder of a denoiser.

    Args:
        examples: the part `validation`.
    """
    folders, ranges = denoisers(experts)
    assert ranges is not None, "experts carry their ranges"
    own = {BASE: denoiser_dir(pretrained), **others} | {f"expert {i}": folder for i, folder in enumerate(folders, 1)}
    schedule = load_noise_schedule(pretrained)
    losses = {
        name: image_losses(
            single(load_denoiser(folder), device), schedule, examples, ranges, draws, device, str(folder)
        )
        for name, folder in own.items()
    }
    return compare_experts(losses, ranges)


def compare_experts(losses: Mapping[str, np.ndarray], ranges: TimestepRanges) -> pd.DataFrame:
    """Every expert's loss on its own range against that of other models, paired over images and noise.

    Args:
        losses: model -> [N, n] of `image_losses`; `expert 1` … `expert N`, and those that they are compared with.

    Returns:
        A row an expert and model that it is compared with: `expert`, `range`, `against`, `loss`, `loss_against`, and
        the `change` in percent of the other's loss with the ends of its 95 % interval over images, `low` and `high`.
    """
    rows = []
    for other, theirs in losses.items():
        if other.startswith("expert "):
            continue
        for i in range(1, ranges.N + 1):
            ours, base = losses[f"expert {i}"][i - 1], theirs[i - 1]
            change = t_interval(100 * (ours - base) / base.mean())
            bounds = "[{}, {})".format(*ranges.range(i))
            rows.append([i, bounds, other, ours.mean(), base.mean(), change.value, change.low, change.high])
    return pd.DataFrame(rows, columns=NOT_MEASURED.columns)


def losers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare_experts` whose expert does not beat the base beyond the interval."""
    return table[(table["against"] == BASE) & (table["high"] >= 0)]


def refuse_losers(table: pd.DataFrame) -> None:
    """End the run where an expert does not beat the base on its own range.

    Raises:
        InputError: it names each such expert, its interval, and what to try.
    """
    if len(lost := losers(table)):
        found = "; ".join(
            f"expert {row.expert} on {row.range}: {row.change:+.2f} % [{row.low:+.2f}, {row.high:+.2f}]"
            for row in lost.itertuples()
        )
        raise InputError(
            f"gate: {len(lost)} of {table['expert'].nunique()} experts do not lower the base's validation loss on their"
            f" own range ({found}); nothing was searched and the experts are kept. Lower finetune_range.learning_rate,"
            " raise finetune_range.iterations, lower finetune_range.consistency or p, or set gate.must_win=warn"
        )
