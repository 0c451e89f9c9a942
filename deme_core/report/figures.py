"""Pictures of a finished run as PNG files; equal inputs give equal bytes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from deme_core.report.style import CHOSEN, DPI, PLAIN, SEQUENTIAL, figure, heat, square
from deme_core.report.tables import first_changes, weight_names, weights_text
from deme_core.search.confirmed import confirmed
from deme_core.search.result import SearchResult

PAIR_SIDE = 128  # pixels of an image in the gallery
LABEL = 32  # characters of a line of weights beside an axis


def samples_side_by_side(path: Path, sheets: Mapping[str, Path]) -> None:
    """Preview sheets of equal size below one another, name -> PNG; pixels are enlarged whole, or averaged in blocks."""
    images = [Image.open(file).convert("RGB") for file in sheets.values()]
    shrink, grow = max(1, images[0].width // 1600), max(1, round(1200 / images[0].width))
    pixels = [np.asarray(image.reduce(shrink)).repeat(grow, 0).repeat(grow, 1) for image in images]
    rows, columns, gap, head = *pixels[0].shape[:2], 34, 40
    height = head + len(pixels) * (rows + gap)
    with figure(path, columns / DPI, height / DPI, layout="none") as fig:
        fig.text(0.005, 1 - 6 / height, "Samples: same noise in the same position of each sheet", size=11, va="top")
        for k, name in enumerate(sheets):
            bottom = (len(pixels) - 1 - k) * (rows + gap)
            fig.text(0.005, (bottom + rows + 6) / height, name, va="bottom")
            fig.figimage(pixels[k], 0, bottom)  # sets pixels without resampling


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, uint8 [C, H, W] of one size, with their CLIP scores."""

    text: str
    before: np.ndarray
    after: np.ndarray
    before_score: float
    after_score: float


def pair_sheet(path: Path, pairs: Sequence[Pair], title: str, models: tuple[str, str], columns: int = 3) -> None:
    """Pairs in reading order, each below its prompt, the scores below the images; pixels are enlarged whole."""
    size = pairs[0].before.shape[-1]
    side = size * max(1, round(PAIR_SIDE / size)) if size <= PAIR_SIDE else PAIR_SIDE
    gap, text, below, head = 10, 34, 20, 56
    wide, high = 2 * side + 3 * gap, text + side + below + gap
    rows = -(-len(pairs) // columns)
    width, height = columns * wide + gap, head + rows * high
    with figure(path, width / DPI, height / DPI, layout="none") as fig:
        fig.text(gap / width, 1 - 6 / height, title, size=11, va="top")
        legend = f"left: {models[0]}, right: {models[1]}, from the same noise; below: CLIP score"
        fig.text(gap / width, 1 - 32 / height, legend, size=8, va="top")
        for k, pair in enumerate(pairs):
            left, top = gap + k % columns * wide, height - head - k // columns * high
            words = textwrap.fill(pair.text, 2 * side // 9, max_lines=2, placeholder=" …").replace("$", r"\$")
            fig.text(left / width, (top - text + 3) / height, words, size=6.5, va="bottom", linespacing=1.1)
            scores = (pair.before_score, pair.after_score)
            for column, (image, score) in enumerate(zip((pair.before, pair.after), scores, strict=True)):
                x, bold = left + column * (side + gap // 2), round(score, 1) > round(min(scores), 1)
                fig.figimage(square(image, side), x, top - text - side)  # sets pixels without resampling
                fig.text(
                    (x + side / 2) / width, (top - text - side - 4) / height, f"{score:.1f}", size=7, ha="center",
                    va="top", color=CHOSEN if bold else "k", weight="bold" if bold else "normal",
                )  # fmt: skip


def image_statistics(path: Path, statistics: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """A panel a statistic, a row a model, mean over channels; the first entry is the real images, drawn as a line."""
    (real, target), *models = statistics.items()
    with figure(path, 2.1 * len(target) + 2.6, 0.24 * len(models) + 1.1) as fig:
        axes = fig.subplots(1, len(target), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, target, strict=True):
            ax.axvline(float(np.mean(target[name])), color=CHOSEN, linewidth=1)
            ax.plot([float(np.mean(values[name])) for _, values in models], range(len(models)), "o", color=PLAIN, ms=5)
            ax.set_title(name)
            ax.margins(x=0.15)
        axes[0].set_yticks(range(len(models)), [textwrap.fill(model, 34) for model, _ in models])
        axes[0].invert_yaxis()
        fig.suptitle(f"Statistics of the images; line: {real}", size=10, x=0.01, ha="left")


def loss_curves(path: Path, curves: Mapping[str, pd.DataFrame]) -> None:
    """Denoising loss of each range relative to its first row, and its consistency loss; range -> rows of a curve."""
    with figure(path, 7.5, 3.2) as fig:
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
    with figure(path, 3.2 + 1.05 * len(columns), 1.5 + 0.36 * len(change)) as fig:
        ax = heat(fig, change.to_numpy(), models, columns, limit, "+z.2f", "change in % (blue: lower)")
        for i in range(len(columns)):
            corner = i - 0.5, models.index(f"expert {i + 1}") - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=2, clip_on=False))
        ax.set(xlabel="range of t, and the pretrained model's loss there", title="Held-out loss against pretrained")


def cosine_matrix(path: Path, cosines: np.ndarray, ranges: Sequence[str]) -> None:
    """Cosine similarity [N, N] of the task vectors (the paper's Fig. 8)."""
    side = 1.4 + 0.75 * len(ranges)
    with figure(path, side + 1.2, side) as fig:
        ax = heat(fig, cosines, ranges, ranges, 1.0, "z.3f", "cosine similarity")
        ax.set(xlabel="range of t", ylabel="range of t", title="Cosine similarity of the task vectors")


def search_trials(path: Path, trials: pd.DataFrame, result: SearchResult) -> None:
    """Every trial of the first round as a change against w = 0 on the same seeds, by each weight; and the finalists.

    Where every block has weights of its own, those of the best finalist stand in the trials' place.
    """
    N, winner = result.N, result.weights
    names = weight_names(len(winner))
    sampled = bool(trials["round"].eq("search").any())
    first = first_changes(trials, "search" if sampled else "loss")
    rows = -(-N // 2)
    with figure(path, 9.5, max(2.9, 2.1 * rows + 0.6)) as fig:
        left, right = fig.subfigures(1, 2, width_ratios=[3, 2], squeeze=False)[0]
        title = f"Merge search: {result.method}, {len(first)} trials" + ("" if sampled else " of the denoising loss")
        left.suptitle(title, x=0.01, ha="left", size=10)
        _finalists(right.subplots(), first_changes(trials, "confirm"), names, result)
        if blocks := result.blocks:
            best = np.array(result.best).reshape(len(blocks), N)
            columns, limit = [f"$w_{{{i}}}$" for i in range(1, N + 1)], float(np.abs(best).max()) or 1.0
            heat(left, best, blocks, columns, limit, "+z.2f", "weight of the best finalist")
            return
        axes = left.subplots(rows, min(N, 2), sharey=True, squeeze=False)
        change = 100 * first["change"] / first["zero"].abs()
        for ax, name, chosen in zip(axes.flat, names, winner, strict=False):
            ax.scatter(first[name], change, s=14, color=PLAIN, linewidths=0)
            ax.axhline(0, color=PLAIN, linewidth=0.8, zorder=0)
            ax.axvline(chosen, color=CHOSEN, linewidth=1.2, zorder=0)
            ax.set_xlabel(f"$w_{{{name[1:]}}}$ (line: {chosen:.3g})")
        for ax in axes.flat[N:]:
            ax.set_visible(False)
        if len(change):  # far points of a wide design would flatten the rest
            axes[0, 0].set_ylim(change.min() - 3, min(float(change.max()), 3 * abs(float(change.min())) + 10) + 3)
        left.supylabel("change against w = 0, same seeds, %", size=9)


def _finalists(ax: Axes, final: pd.DataFrame, names: list[str], result: SearchResult) -> None:
    """Change of each finalist against w = 0 on the confirming seeds with the interval that decides, the best on top."""
    N, winner, unit = result.N, result.weights, result.best_change_unit
    size = f"{final['first'].nunique()} blocks of {final['images'].iloc[0]:,} fresh images"
    labels, rows = [], []
    for at, finalist in final.groupby(names):
        weights = np.array(at, dtype=float)
        if weights.any():
            rows.append((weights, confirmed(finalist["score"].tolist(), finalist["zero"].tolist(), ratio=bool(unit))))
    for y, (w, change) in enumerate(sorted(rows, key=lambda row: -row[1].value)):
        won, uniform = np.allclose(w, winner), np.allclose(w, 1 / N)
        colour = CHOSEN if won else "k"
        ax.plot([change.low, change.high], [y, y], color=colour, linewidth=1.4)
        ax.plot(change.value, y, "*" if won else "o", color=colour, markersize=9 if won else 5)
        shared = (w.reshape(-1, N) == w[:N]).all()
        text = textwrap.fill(weights_text(w[:N].tolist(), ()), LABEL) if shared else "each block its own"
        labels.append(text + "\n(uniform)" * uniform)
    ax.axvline(0, color=PLAIN, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(labels)), labels)
    ax.margins(y=0.3)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"Finalists (star: the choice)\n{size}", loc="right")
    ax.set_xlabel(", ".join(filter(None, ["change against w = 0", unit])))
