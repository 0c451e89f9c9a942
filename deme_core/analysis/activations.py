"""Does finetuning change activations by channel or by position in space? (Fig. 3 of the paper.)

The change D = F_after − F_base of a feature map [C, H, W] is split as in a two-way analysis of variance: its mean, what
a channel has at every position, what a position has in every channel, and the rest.
"""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from deme_core.analysis.group_gradients import place_of
from deme_core.analysis.names import EXPERT
from deme_core.analysis.run_files import Run
from deme_core.analysis.vectors import colours
from deme_core.analysis.words import number
from deme_core.checkpoints import load_denoiser
from deme_core.dag import RANDOM, SOUP_FULL_RANGE
from deme_core.data.examples import batches
from deme_core.data.some_examples import SomeExamples
from deme_core.device import best_device
from deme_core.metrics.intervals import t_interval
from deme_core.metrics.moments import Array
from deme_core.projection import blocks_of
from deme_core.report.style import PLAIN, figure
from deme_core.seeds import step_seed
from deme_core.timesteps import TimestepRanges

MARKERS = "sDP^v*<>phX8"  # of what is neither an expert nor of the null
SEEDS = "two seeds"  # the difference of two trainings that differ in nothing else
Inputs = list[tuple[torch.Tensor, torch.Tensor, Any]]


def compute(run: Run) -> pd.DataFrame:
    """A row a change (`model`) and block of the network.

    `size` of the change beside the base's activations; `channel` and `space`, the shares of its variance that are a
    matter of the channel, and of the position, alone, with intervals over images; and as `…_chance` what a change
    without any order would have. An expert is looked at on its own range, a vector of the null on that of the expert
    whose norms it has, all else on all t.
    """
    schedule, device = run.schedule, best_device()
    ranges = run.ranges(schedule.config.num_train_timesteps)
    examples = SomeExamples(run.training_part(), run.params.images)
    base = load_denoiser(run.base).to(device)
    rows = []
    for name, files, before, after in _changes(run):
        inputs = _inputs(schedule, examples, span_of(name, ranges), device)
        merged = run.merged(files)
        first = base if before is None else merged.load(before).to(device)
        maps = _activations(first, inputs)
        second = _activations(merged.load(after).to(device), inputs)
        for block, activation in maps.items():
            rows.append([name, block, *measures(activation, second[block])])
    ends = [f"{what}{end}" for what in ("channel", "space") for end in ("", "_low", "_high", "_chance")]
    return pd.DataFrame(rows, columns=["model", "block", "size", *ends])


def _changes(run: Run) -> Iterator[tuple[str, list[Path], list[float] | None, list[float]]]:
    """Name, its vectors, their weights before (None: the base itself) and after."""
    vectors = run.vectors()
    for name, file in vectors.items():
        yield name, [file], None, [1.0]
    seeds = [file for name, file in vectors.items() if name.startswith(SOUP_FULL_RANGE)][:2]
    if len(seeds) == 2:
        yield SEEDS, seeds, [1.0, 0.0], [0.0, 1.0]


def span_of(name: str, ranges: TimestepRanges) -> tuple[int, int]:
    """The timesteps that a change is looked at on."""
    kind, _, number_of = name.rpartition(" ")
    if kind == EXPERT or kind.startswith(RANDOM):
        return ranges.range(int(number_of))
    return 0, ranges.T


@torch.inference_mode()
def _inputs(schedule: Any, examples: SomeExamples, span: tuple[int, int], device: torch.device) -> Inputs:
    """Batches of (x_t, t, condition), the same for every model."""
    generator = torch.Generator().manual_seed(step_seed("activations", *span))
    index, found = torch.arange(len(examples)), []
    for part in batches(len(index), examples.shape):
        x0, condition = examples.draw(index[part], generator)
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(*span, (len(x0),), generator=generator)
        there = {key: value.to(device) for key, value in condition.items()}
        found.append((schedule.add_noise(x0, noise, t).to(device), t.to(device), there))
    return found


@torch.inference_mode()
def _activations(model: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Block -> what it hands on, [n, C, H, W] on the CPU."""
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(block: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen.setdefault(block, []).append(value.cpu())

        return hook

    model.eval()
    hooks = [module.register_forward_hook(keep(name)) for name, module in blocks_of(model)]
    for x, t, condition in inputs:
        model(x, t, **condition)
    for hook in hooks:
        hook.remove()
    return {block: torch.cat(seen[block]) for block in sorted(seen, key=place_of)}


def shares(change: torch.Tensor) -> tuple[Array, Array]:
    """The shares of each image's variance that channel and position make, [n] each. float [n, C, H, W]."""
    D = change.double()
    D = D - D.mean((1, 2, 3), keepdim=True)
    whole = D.square().mean((1, 2, 3)).clamp(min=1e-300)
    channel = D.mean((2, 3)).square().mean(1) / whole
    space = D.mean(1).square().mean((1, 2)) / whole
    return channel.numpy(), space.numpy()


def measures(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """Size of the change; of channel and space each the share with its interval, and what chance gives."""
    change = after - before
    size = float(change.double().square().mean().sqrt() / before.double().square().mean().sqrt())
    C, positions = before.shape[1], before.shape[2] * before.shape[3]
    found: list[float] = [size]
    for values, degrees in zip(shares(change), (C - 1, positions - 1), strict=True):
        share = t_interval(values)
        found += [share.value, share.low, share.high, degrees / max(1, C * positions - 1)]
    return found


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """Shares beside those of a change without order, block by block: experts in colour, the null in grey."""
    names, blocks = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["block"]))
    shades = colours(names)
    markers = dict(zip((n for n in names if not n.startswith((EXPERT, RANDOM))), cycle(MARKERS), strict=False))
    with figure(path, 9, 3.9) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, what, title in zip(axes, ("channel", "space"), ("channel alone", "position alone"), strict=True):
            for k, name in enumerate(names):
                rows = table[table["model"] == name].set_index("block").loc[blocks]
                x = np.arange(len(blocks)) + 0.5 * (k / max(1, len(names) - 1) - 0.5)
                null = name.startswith(RANDOM)
                y, low, high = (rows[f"{what}{end}"] / rows[f"{what}_chance"] for end in ("", "_low", "_high"))
                ax.errorbar(
                    x, y, yerr=[y - low, high - y], fmt="x" if null else markers.get(name, "o"), ms=4,
                    color="0.6" if null else shades[name], linewidth=1, label="null" if null else name,
                )  # fmt: skip
            ax.axhline(1, color=PLAIN, linewidth=0.8, zorder=0)
            ax.set_xticks(range(len(blocks)), blocks, rotation=30, ha="right")
            ax.set(yscale="log", title=f"Change by {title}")
            ax.yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("share of the variance / share by chance")
        handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        fig.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=7.5)


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    text = "The paper saw activations change by channel rather than by position (Fig. 3). Here"
    experts, null = (table[table["model"].str.startswith(f"{name}")] for name in (EXPERT, RANDOM))
    said, seeds = [], table[table["model"] == SEEDS]
    for rows, what in ((experts, "experts"), (null, "random vectors of their norms"), (seeds, SEEDS)):
        if len(rows):
            channel, space = 100 * rows["channel"].mean(), 100 * rows["space"].mean()
            said.append(
                f"of the change by {what} {number(channel)} % of the variance is a matter of the channel alone and"
                f" {number(space)} % of the position alone (without order:"
                f" {number(100 * rows['channel_chance'].mean())} and {number(100 * rows['space_chance'].mean())} %)"
            )
    null = null.assign(model=null["model"].str.replace(r"^\S+", EXPERT, regex=True))
    both = experts.merge(null, on=["model", "block"])
    more = int((both["channel_low_x"] > both["channel_high_y"]).sum())
    return (
        f"{text} {'; '.join(said)}. In {more} of {len(both)} pairs of expert and block the channel's share is larger"
        " than under the null beyond both intervals."
    )
