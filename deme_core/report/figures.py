"""Pictures of a finished run as PNG files; equal inputs give equal bytes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from deme_core.merging.search import anchors
from deme_core.metrics.intervals import Interval

DPI = 150
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "xtick.labelsize": 8, "ytick.labelsize": 8,
}  # fmt: skip
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
CHOSEN, PLAIN = "#D55E00", "0.55"  # vermillion of the Okabe-Ito palette, and grey


@contextmanager
def _figure(path: Path, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    """A figure of `width` × `height` inches in our style, written to `path` in the end."""
    with matplotlib.style.context(["default", STYLE]):
        fig = Figure((width, height), dpi=DPI, layout=layout)
        yield fig
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, metadata={"Software": None})


def samples_side_by_side(path: Path, sheets: Mapping[str, Path]) -> None:
    """Preview sheets of equal size below one another, name -> PNG; pixels are enlarged whole, or averaged in blocks."""
    images = [Image.open(file).convert("RGB") for file in sheets.values()]
    shrink, grow = max(1, images[0].width // 1600), max(1, round(1200 / images[0].width))
    pixels = [np.asarray(image.reduce(shrink)).repeat(grow, 0).repeat(grow, 1) for image in images]
    rows, columns, gap, head = *pixels[0].shape[:2], 34, 40
    height = head + len(pixels) * (rows + gap)
    with _figure(path, columns / DPI, height / DPI, layout="none") as fig:
        fig.text(0.005, 1 - 6 / height, "Samples: same noise in the same position of each sheet", size=11, va="top")
        for k, name in enumerate(sheets):
            bottom = (len(pixels) - 1 - k) * (rows + gap)
            fig.text(0.005, (bottom + rows + 6) / height, name, va="bottom")
            fig.figimage(pixels[k], 0, bottom)  # sets pixels without resampling


def loss_curves(path: Path, curves: Mapping[str, pd.DataFrame]) -> None:
    """Denoising loss of each range relative to its first row, and its consistency loss; range -> rows of a curve."""
    with _figure(path, 7.5, 3.2) as fig:
        left, right = fig.subplots(1, 2, width_ratios=[3, 2])
        colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.88, len(curves)))
        for colour, (name, curve) in zip(colours, curves.items(), strict=True):
            style = {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": 1.2, "label": name}
            left.plot(curve["step"], curve["denoising"] / curve["denoising"].iloc[0], **style)
            right.plot(curve["step"], curve["consistency"], **style)
        left.axhline(1, color=PLAIN, linewidth=0.8, zorder=0)
        left.set(xlabel="step", ylabel="denoising loss / its first value", title="Denoising loss while finetuning")
        right.set(xlabel="step", ylabel="consistency loss", title="Distance to the pretrained model")
        right.set_yscale("log" if all((curve["consistency"] > 0).all() for curve in curves.values()) else "linear")
        fig.legend(*left.get_legend_handles_labels(), loc="outside right center", title="range of t")


def loss_matrix_heatmap(path: Path, losses: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Change of the held-out loss; rows models (shown by `names`, where there), columns ranges, as in the CSV."""
    change = 100 * (losses.drop(index="pretrained") / losses.loc["pretrained"] - 1)
    models = [names.get(model, model) for model in change.index]
    columns = [f"{name}\nθ: {loss:.3g}" for name, loss in losses.loc["pretrained"].items()]
    limit = float(change.abs().to_numpy().max()) or 1.0
    with _figure(path, 3.2 + 1.05 * len(columns), 1.5 + 0.36 * len(change)) as fig:
        ax = _heat(fig, change.to_numpy(), models, columns, limit, "+z.2f", "change in % (blue: lower)")
        for i in range(len(columns)):
            corner = i - 0.5, models.index(f"expert {i + 1}") - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=2, clip_on=False))
        ax.set(xlabel="range of t, and the pretrained model's loss there", title="Held-out loss against pretrained")


def cosine_matrix(path: Path, cosines: np.ndarray, ranges: Sequence[str]) -> None:
    """Cosine similarity [N, N] of the task vectors (the paper's Fig. 8)."""
    side = 1.4 + 0.75 * len(ranges)
    with _figure(path, side + 1.2, side) as fig:
        ax = _heat(fig, cosines, ranges, ranges, 1.0, "z.3f", "cosine similarity")
        ax.set(xlabel="range of t", ylabel="range of t", title="Cosine similarity of the task vectors")


def _heat(
    fig: Figure, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float, form: str, label: str
) -> Axes:
    """Annotated cells, coloured from -limit to limit; `form` formats a value, `label` names them all."""
    ax = fig.subplots()
    image = ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        dark = np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11)) < 0.5
        ax.text(j, i, f"{value:{form}}".replace("-", "−"), ha="center", va="center", color="w" if dark else "k")
    fig.colorbar(image, label=label, aspect=30)
    return ax


def mean_scores(first: pd.DataFrame, names: Sequence[str]) -> dict[tuple[int, int], pd.DataFrame]:
    """(i, j), j <= i -> mean score over all trials of w_i (rows) and w_j (columns); NaN where there is none."""
    levels = np.unique(first[list(names)])
    return {
        (i, j): first.groupby([a, b])["score"].mean().unstack(-1).reindex(index=levels, columns=levels)
        for i, a in enumerate(names)
        for j, b in enumerate(names[: i + 1])
    }


def without_lone_uniform(first: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The trials without w = 1/N, where no other holds 1/N: its one score would stand among means of many."""
    uniform = np.isclose(first[list(names)].to_numpy(), 1 / len(names))
    if len(names) == 1 or uniform.any(axis=1).sum() != 1:
        return first
    return first.drop(index=first.index[uniform.all(axis=1)])


def search_heatmap(path: Path, trials: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Mean score of the search by each weight and each pair of weights, and the confirming scores of its finalists."""
    N, winner = len(result["weights"]), result["weights"]
    names = [f"w{i}" for i in range(1, N + 1)]
    first, final = (trials[trials["round"] == round] for round in ("search", "confirm"))
    means = mean_scores(without_lone_uniform(first, names), names)
    norm = Normalize(*np.nanquantile([mean.to_numpy() for mean in means.values()], [0, 1]))
    levels = means[0, 0].index
    at, ticks, blank = range(len(levels)), [f"{level:.3g}" for level in levels], [""] * len(levels)
    cell, half = max(1.2, 2.6 / N), max(1, N // 2)  # inches; the finalists fill the upper right quarter
    with _figure(path, max(2, N) * (cell + 0.35) + 1.4, N * cell + 1.5) as fig:
        grid = fig.add_gridspec(N, max(2, N))
        axes = {(i, j): fig.add_subplot(grid[i, j]) for i, j in means}
        for (i, j), ax in axes.items():
            if i == j:
                scores = np.diag(means[i, i])
                ax.plot(at, scores, color=PLAIN, linewidth=0.8, clip_on=False, zorder=1)
                ax.scatter(at, scores, c=scores, cmap=SEQUENTIAL, norm=norm, s=25, clip_on=False, zorder=3)
                ax.set(xlim=(-0.5, len(at) - 0.5), ylim=(norm.vmin, norm.vmax))
                ax.yaxis.tick_right()
                ax.spines.right.set_visible(True)
            else:
                ax.imshow(means[i, j], cmap=SEQUENTIAL, norm=norm, origin="lower", aspect="auto")
                ax.plot(*np.interp([[winner[j]], [winner[i]]], levels, at), "*", color=CHOSEN, mec="w", ms=9)
                ax.set_facecolor("0.93")  # pairs that were never tried
                ax.set_yticks(at, ticks if j == 0 else blank)
                ax.set_ylabel(f"$w_{{{i + 1}}}$" if j == 0 else "")
            ax.set_xticks(at, ticks if i == N - 1 else blank, rotation=90 if len("".join(ticks)) > 10 * cell else 0)
            ax.set_xlabel(f"$w_{{{j + 1}}}$" if i == N - 1 else "")
        _finalists(fig.add_subplot(grid[:half, -half:]), final, names, winner)
        label = f"mean score: Fréchet distance on {first['images'].iloc[0]:,} images (lower is better)"
        fig.colorbar(ScalarMappable(norm, SEQUENTIAL), ax=fig.axes, location="bottom", label=label, aspect=40)
        fig.suptitle(f"Merge search: {result['method']}, {len(first)} trials; star: winner", x=0.01, ha="left")


def _finalists(ax: Axes, final: pd.DataFrame, names: list[str], winner: list[float]) -> None:
    """Confirming scores, the best on top; axes at the sides that face no other panel."""
    special = dict(zip(anchors(len(names)), ("w = 0", "uniform"), strict=True))
    labels = []
    means = final.groupby(names)["score"].mean().reset_index()  # over the confirming blocks
    for y, (score, *w) in enumerate(means.sort_values("score", ascending=False)[["score", *names]].to_numpy()):
        note = "".join(f"  ({name})" for anchor, name in special.items() if np.allclose(w, anchor))
        labels.append(", ".join(f"{v:.3g}" for v in w) + note)
        won = np.allclose(w, winner)
        colour = CHOSEN if won else "k" if note else PLAIN
        ax.plot(score, y, "*" if won else "o", color=colour, markersize=9 if won else 5)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(length=0, labelleft=False, labelright=True, labelbottom=False, labeltop=True)
    ax.set_title(
        f"finalists: {final['first'].nunique()} blocks of {final['images'].iloc[0]:,} fresh images",
        size=9,
        loc="center",
    )
    ax.grid(linewidth=0.4)
    ax.spines[:].set_visible(False)


def forest(path: Path, rows: Mapping[str, tuple[Interval, Sequence[float]]], label: str, note: str) -> None:
    """Differences with their intervals, one below the other: name -> (interval, values of the single trainings)."""
    with _figure(path, 7.5, 1.1 + 0.28 * len(rows)) as fig:
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
        ax.set(xlabel=f"{label}\ncoloured: the 95 % interval leaves out 0; dots: training seeds")
        fig.suptitle(note, x=0.01, ha="left", size=10)


def sensitivity_curves(path: Path, curves: Mapping[str, Mapping[str, pd.DataFrame]], names: Mapping[str, str]) -> None:
    """Fig. 9: one panel for p, one for N; curve -> model -> rows of x, value, low, high, seeds.

    Curves whose names begin alike share a panel; the second of them is dashed.
    """
    panels = sorted({curve.split()[0] for curve in curves}, reverse=True)  # p, then N
    titles = {"p": "p: probability of the full range (Eq. 6)", "N": "N: number of ranges"}
    colours = dict(zip(names, (CHOSEN, "#0072B2"), strict=True))
    with _figure(path, 9, 4.2) as fig:
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
        fig.axes[0].set_ylabel("change of the Fréchet distance, %")
        if "p" in panels:
            fig.axes[0].set_title("Appendix F's prose names the ends of p the other way round", fontsize=7)
