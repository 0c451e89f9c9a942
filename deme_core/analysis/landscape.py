"""The loss on the plane of two task vectors, for all t and for each range (the paper's Fig. 4 and 7a)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deme_core.analysis.distance import Distance
from deme_core.analysis.names import EXPERT
from deme_core.analysis.plane import Plane
from deme_core.analysis.run_files import Run
from deme_core.analysis.vectors import layers
from deme_core.analysis.words import interval, number, rows_of
from deme_core.checkpoints import weights_file
from deme_core.dag import RANDOM
from deme_core.data.some_examples import SomeExamples
from deme_core.denoising import single
from deme_core.device import best_device
from deme_core.merging.task_vectors import cosines
from deme_core.metrics.intervals import t_interval
from deme_core.metrics.moments import Array
from deme_core.report.style import CHOSEN, SEQUENTIAL, figure
from deme_core.search.objective import MergedModel
from deme_core.search.result import SearchResult
from deme_core.timesteps import TimestepRanges, span_name
from deme_core.training.range_losses import image_losses

ALL, DISTANCE = "all t", "Fréchet distance"
LOSS, MARK, SLOPE, LOWEST = "loss", "mark", "slope", "lowest"
DRAWS = 1  # of t and ε for an image and range, the same at every point
IN_PLANE = 0.999  # share of a step, from which on it counts as lying in the plane
COLUMNS = ["what", "part", "name", "x", "y", "value", "low", "high"]


def compute(run: Run) -> pd.DataFrame:
    """Rows of four kinds, `what`, for every `part`: all t, and each range.

    `loss` (or Fréchet distance) at the grid point x, y. `mark`: where a model stands, and as `value` the share of its
    step that lies in the plane. `slope` at θ along an axis, in percent of the loss per length of the vector. `lowest`
    point of the grid, found on half of the images, with its change against θ in percent on the others.
    """
    a, b = run.params.plane or _default(run)
    names = list(dict.fromkeys([a, b, *(name for name in run.vectors() if name.startswith(EXPERT))]))
    gram = _gram(run, names)
    plane = Plane.of(gram[:2, :2])
    marks = _marks(run, names, gram, plane)
    xs, ys = plane.grid([(x, y) for _, x, y, _ in marks], run.params.grid)
    ranges = run.ranges(run.schedule.config.num_train_timesteps)
    parts = [ALL, *(span_name(ranges.range(i)) for i in range(1, ranges.N + 1))]
    losses, distances = _values(run, run.merged([run.vector(a), run.vector(b)]), plane, xs, ys, ranges)
    rows = [[MARK, "", name, x, y, share, np.nan, np.nan] for name, x, y, share in marks]
    for part, values in zip(parts, losses, strict=True):
        rows += _rows(part, values, xs, ys, (a, plane.a), (b, plane.beyond))
    rows += [[LOSS, DISTANCE, "", x, y, value, np.nan, np.nan] for (x, y), value in distances.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _default(run: Run) -> tuple[str, str]:
    """The experts of the first and the last range; of a run of one range this one, and a vector of the null."""
    return f"{EXPERT} 1", f"{EXPERT} {run.N}" if run.N > 1 else f"{RANDOM}1 1"


def _gram(run: Run, names: Sequence[str]) -> Array:
    """Products of task vectors."""
    files = [run.vector(name) for name in names]
    norms = [sum(row[4] ** 2 for row in layers(weights_file(run.base), file)) ** 0.5 for file in files]
    return cosines(files) * np.outer(norms, norms)


def _marks(run: Run, names: Sequence[str], gram: Array, plane: Plane) -> list[tuple[str, float, float, float]]:
    """Name, x, y of what stands in the plane or beside it, and which share of its step from θ the plane holds."""
    experts = [names.index(f"{EXPERT} {i}") for i in range(1, run.N + 1)]
    result = SearchResult.read(run.search / "result.json")
    steps = {f"θ + τ of {names[0]}": np.eye(len(names))[0], f"θ + τ of {names[1]}": np.eye(len(names))[1]}
    sums = {"merge, w = 1/N": [1 / run.N] * run.N}
    if not result.blocks:  # weights of blocks are no sum of whole vectors
        sums["merge, searched w" if any(result.weights) else "merge, best finalist"] = result.best
    for name, weights in sums.items():
        steps[name] = np.zeros(len(names))
        steps[name][experts] = weights
    found = [("θ", 0.0, 0.0, 1.0)]
    for name, step in steps.items():
        x, y = plane.place((gram @ step)[:2])
        length = float(step @ gram @ step)
        found.append((name, x, y, (x**2 + y**2) / length if length > 0 else 1.0))
    return found


def _values(
    run: Run, merged: MergedModel, plane: Plane, xs: Array, ys: Array, ranges: TimestepRanges
) -> tuple[Array, dict[tuple[float, float], float]]:
    """Losses [1 + N, X, Y, n] of all images at all points, all t first; and distances by point, where asked for."""
    examples = SomeExamples(run.training_part(), run.params.images)
    device, widths = best_device(), np.diff(ranges.bounds) / ranges.T
    losses = np.empty((1 + ranges.N, len(xs), len(ys), len(examples)))
    distance = Distance.of(run, device) if run.params.distance_images else None
    distances = {}
    for (i, x), (j, y) in ((p, q) for p in enumerate(xs) for q in enumerate(ys)):
        weights = plane.weights(x, y)
        model = single(merged.load(weights), device)
        found = image_losses(model, run.schedule, examples, ranges, DRAWS, device, f"the point ({x:.3g}, {y:.3g})")
        losses[1:, i, j], losses[0, i, j] = found, widths @ found
        if distance is not None:
            distances[x, y] = distance(single(merged.at(weights), device))
    return losses, distances


def _rows(
    part: str, values: Array, xs: Array, ys: Array, first: tuple[str, float], second: tuple[str, float]
) -> Iterator[list]:
    """Of losses [X, Y, n]: those of the grid, the slopes at θ along both axes, the lowest point."""
    mean = values.mean(-1)
    i, j = int(np.abs(xs).argmin()), int(np.abs(ys).argmin())  # θ is a point of the grid
    for k, x in enumerate(xs):
        yield from ([LOSS, part, "", x, y, mean[k, l], np.nan, np.nan] for l, y in enumerate(ys))  # noqa: E741
    steps = [
        (first, values[i + 1, j] - values[i - 1, j], xs[i + 1] - xs[i - 1]),
        (second, values[i, j + 1] - values[i, j - 1], ys[j + 1] - ys[j - 1]),
    ]
    for (name, length), change, way in steps:
        slope = t_interval(100 * change / mean[i, j] * length / way)
        yield [SLOPE, part, name, 0.0, 0.0, slope.value, slope.low, slope.high]
    half = values.shape[-1] // 2
    k, l = np.unravel_index(values[..., :half].mean(-1).argmin(), mean.shape)  # noqa: E741
    change = values[k, l, half:] - values[i, j, half:]
    lowest = t_interval(100 * change / values[i, j, half:].mean()) if len(change) > 1 else None
    ends = (lowest.value, lowest.low, lowest.high) if lowest else (np.nan,) * 3
    yield [LOWEST, part, "", xs[k], ys[l], *ends]


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """A panel a part: change against θ in percent, the models marked."""
    grid = table[table["what"] == LOSS]
    parts = list(dict.fromkeys(grid["part"]))
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    with figure(path, 2.8 * columns + 0.3, 2.5 * rows + 0.7) as fig:
        axes = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for ax, part in zip(axes.flat, parts, strict=False):
            _panel(fig, ax, grid[grid["part"] == part], table, part)
        for ax in axes.flat[len(parts) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel("along v", size=8)
        for ax in axes.flat[len(parts) - columns : len(parts)]:
            ax.set_xlabel("along u", size=8)
            ax.tick_params(labelbottom=True)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5)


def _panel(fig: Figure, ax: Any, losses: pd.DataFrame, table: pd.DataFrame, part: str) -> None:
    square = losses.pivot(index="y", columns="x", values="value")
    at = square.to_numpy()[np.abs(square.index.to_numpy()).argmin(), np.abs(square.columns.to_numpy()).argmin()]
    change = 100 * (square / at - 1)
    low, high = float(change.min().min()), float(change.max().max())
    levels = low + (high - low) * np.linspace(0, 1, 9) ** 2  # closer near the lowest point, where models stand
    shown = ax.contourf(square.columns, square.index, change, levels, cmap=SEQUENTIAL, antialiased=False)
    ax.contour(
        square.columns, square.index, change, levels, colors="w", linewidths=0.5, linestyles="solid", antialiased=False
    )
    fig.colorbar(shown, ax=ax, format="%.2g", aspect=25, shrink=0.9)
    for (marker, colour, size), mark in zip(MARKERS, rows_of(table[table["what"] == MARK]), strict=False):
        ax.plot(mark.x, mark.y, marker, ms=size, mfc=colour, mec="k", mew=0.8, ls="", label=_label(mark))
    best = table[(table["what"] == LOWEST) & (table["part"] == part)]
    ax.plot(best["x"], best["y"], "X", ms=7, mfc="w", mec="k", mew=0.8, ls="", label="lowest on half of the images")
    name = {ALL: "loss over all t", DISTANCE: DISTANCE}.get(part, f"loss, t in {part}")
    ax.set_title(f"{name}, change in %", size=8.5)


MARKERS = (("o", "w", 7), ("^", CHOSEN, 7), ("v", "#56B4E9", 7), ("D", "#F0E442", 6), ("*", "#CC79A7", 10))


def _label(mark: Any) -> str:
    return mark.name if mark.value > IN_PLANE else f"{mark.name} (projected)"


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    slopes, lowest, marks = (table[table["what"] == what] for what in (SLOPE, LOWEST, MARK))
    told = [f"{row.part} along {row.name} {interval(row)}" for row in rows_of(slopes) if row.low > 0 or row.high < 0]
    text = (
        "The paper saw θ where the loss over all t is flat and that of each range is steep (Fig. 4), and lower points"
        f" between the vectors (Fig. 7a). Here {len(told)} of {len(slopes)} slopes at θ are told from 0"
    )
    text += f", in percent of the loss per length of the vector: {'; '.join(told)}." if told else "."
    lower = [f"{row.part} {interval(row)}" for row in rows_of(lowest) if row.high < 0]
    text += (
        " The lowest point of the grid, found on half of the images, is on the others"
        + (f" below θ, in percent: {'; '.join(lower)}; not shown" if lower else " not shown to be below θ")
        + (f" for the other {len(lowest) - len(lower)}." if lower else ".")
    )
    beside = [f"{number(100 * row.value)} % of that to {row.name}" for row in rows_of(marks) if row.value <= IN_PLANE]
    return text + (f" Of the squared length of a step the plane holds {' and '.join(beside)}." if beside else "")
