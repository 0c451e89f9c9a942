"""Pictures of studies and of commands that compare several runs; equal inputs give equal bytes."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from deme_core.metrics.intervals import Interval
from deme_core.report.style import CHOSEN, PLAIN, figure


def sampler_curves(path: Path, table: pd.DataFrame) -> None:
    """Distance over network calls, a line a sampler, of the table of `deme_core.report.samplers`."""
    with figure(path, 6, 3.6) as fig:
        ax = fig.subplots()
        for k, ((kind, spacing), rows) in enumerate(table.groupby(["kind", "spacing"], sort=False)):
            ax.plot(
                rows["calls"], rows["all judges"], "o-", ms=4, linewidth=1, color=f"C{k}", label=f"{kind}, {spacing}"
            )
        calls = sorted(table["calls"].unique())
        _over_calls(ax, calls, "distance, all judges")
        ax.yaxis.minorticks_off()
        ax.set_title("The pretrained model by every sampler")
        ax.legend(fontsize=7, ncols=2)


def call_curves(path: Path, curves: Mapping[str, Mapping[int, Interval]]) -> None:
    """Distance over network calls with its interval, a line a model; 1 is the first model with the most calls."""
    with figure(path, 6.5, 4) as fig:
        ax = fig.subplots()
        ax.axhline(1, color=PLAIN, linewidth=0.8, zorder=0)
        calls = sorted({count for curve in curves.values() for count in curve})
        for k, (model, curve) in enumerate(curves.items()):
            at = np.array(list(curve)) * 1.02 ** (k - (len(curves) - 1) / 2)  # side by side
            value, low, high = (np.array([getattr(curve[c], end) for c in curve]) for end in ("value", "low", "high"))
            ax.errorbar(
                at, value, [value - low, high - value], fmt="o-", ms=4, linewidth=1, elinewidth=0.8, color=f"C{k}",
                label=textwrap.fill(model, 40),
            )  # fmt: skip
        _over_calls(ax, calls, f"distance; 1: the base with {calls[-1]} calls")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.legend(fontsize=7)


def _over_calls(ax: Axes, calls: Sequence[int], label: str) -> None:
    ax.set(xscale="log", yscale="log", xlabel="network calls an image", ylabel=label)
    ax.set_xticks(calls, [str(count) for count in calls], minor=False)
    ax.xaxis.minorticks_off()


def forest(path: Path, rows: Mapping[str, tuple[Interval, Sequence[float]]], label: str, note: str) -> None:
    """Differences with their intervals, one below the other: name -> (interval, values of the single trainings)."""
    with figure(path, 7.5, 1.1 + 0.28 * len(rows)) as fig:
        ax = fig.subplots()
        for y, (change, seeds) in enumerate(reversed(list(rows.values()))):
            shown = change.high < 0 or change.low > 0
            colour = CHOSEN if shown else "k"
            ax.plot([change.low, change.high], [y, y], color=colour, linewidth=1.4)
            ax.plot(change.value, y, "s", color=colour, markersize=5)
            ax.plot(seeds, [y] * len(seeds), "o", color=PLAIN, markersize=3, zorder=0)
        ax.axvline(0, color=PLAIN, linewidth=0.8, zorder=0)
        ax.set_yticks(range(len(rows)), list(rows)[::-1])
        ax.tick_params(axis="y", length=0)
        ax.set(xlabel=f"{label}\ncoloured: the 95 % interval leaves out 0\ndots: training seeds")
        fig.suptitle(note, x=0.01, ha="left", size=10)


def sensitivity_curves(path: Path, curves: Mapping[str, Mapping[str, pd.DataFrame]], names: Mapping[str, str]) -> None:
    """Fig. 9: one panel for p, one for N; curve -> model -> rows of x, value, low, high, seeds.

    Curves whose names begin alike share a panel; the second of them is dashed.
    """
    panels = sorted({curve.split()[0] for curve in curves}, reverse=True)  # p, then N
    titles = {"p": "p: probability of the full range (Eq. 6)", "N": "N: number of ranges"}
    colours = dict(zip(names, (CHOSEN, "#0072B2"), strict=True))
    with figure(path, 9, 4.2) as fig:
        for ax, panel in zip(np.atleast_1d(fig.subplots(1, len(panels), sharey=True)), panels, strict=True):
            mine = [curve for curve in curves if curve.split()[0] == panel]
            for style, curve in zip(("-", "--"), mine, strict=False):
                for shift, (model, rows) in enumerate(curves[curve].items()):
                    at = np.arange(len(rows)) if panel == "N" else rows["x"].to_numpy()
                    at = at + (shift - 0.5) * (0.06 if panel == "N" else 0.012)
                    ends = np.abs(rows[["low", "high"]].to_numpy() - rows[["value"]].to_numpy()).T
                    label = names[model] + (f", {curve.partition(' ')[2]}" if " " in curve else "")
                    ax.errorbar(
                        at, rows["value"], ends, color=colours[model], linestyle=style, marker="o", markersize=4,
                        capsize=2, linewidth=1.2, elinewidth=0.8, label=label,
                    )  # fmt: skip
                    for x, seeds in zip(at, rows["seeds"], strict=True):
                        ax.plot([x] * len(seeds), seeds, ".", color=colours[model], alpha=0.4, markersize=4)
                    if panel == "N":
                        ax.set_xticks(range(len(rows)), [f"{x:g}" for x in rows["x"]])
            ax.axhline(0, color=PLAIN, linewidth=0.8, zorder=0)
            ax.set(xlabel=titles.get(panel, panel))
        labels = {text: line for ax in fig.axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        fig.legend(labels.values(), labels, loc="outside lower center", ncols=2)
        fig.axes[0].set_ylabel("change of distance by all judges, %")
        if "p" in panels:
            fig.axes[0].set_title("Appendix F's prose names the ends of p the other way round", fontsize=7)
