"""How long are the task vectors, layer by layer, beside the weights that they change? (The paper's Fig. 7b.)"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from deme_core.analysis.group_gradients import place_of
from deme_core.analysis.names import EXPERT
from deme_core.analysis.run_files import Run
from deme_core.analysis.words import number
from deme_core.checkpoints import train_timesteps, weights_file
from deme_core.dag import RANDOM
from deme_core.merging.methods import block_of
from deme_core.merging.task_vectors import TaskVectors
from deme_core.report.style import CHOSEN, PLAIN, SEQUENTIAL, figure
from deme_core.tensor_files import Tensors, piece_bounds
from deme_core.timesteps import span_name

KINDS = {"attn": "attention", "attentions": "attention", "time_emb": "time embedding", "norm": "norm"}


def compute(run: Run) -> pd.DataFrame:
    """A row a vector and layer: its `block`, `kind`, number of `weights`, `norm` of τ there, and `relative` to θ's.

    Weight and bias of a layer count together. The null's vectors have the experts' norms, and are left out.
    """
    names = {name: file for name, file in run.vectors().items() if not name.startswith(RANDOM)}
    ranges = run.ranges(train_timesteps(run.pretrained))
    rows = []
    for name, file in names.items():
        of_range = span_name(ranges.range(int(name.split()[1]))) if name.startswith(EXPERT) else ""
        rows += [[name, of_range, *row] for row in layers(weights_file(run.base), file)]
    columns = ["vector", "range", "block", "layer", "kind", "weights", "norm", "relative"]
    return pd.DataFrame(rows, columns=columns)


def layers(base: Path, vector: Path) -> Iterator[list]:
    """Block, layer, kind, number of weights, ‖τ‖ and ‖τ‖/‖θ‖ of every layer; NaN where θ is 0. A piece at a time."""
    with Tensors(base) as theta, Tensors(vector) as tau:
        opened = TaskVectors(theta, [tau])
        squares: dict[str, list[float]] = {}
        kinds: dict[str, str] = {}
        for key in opened.keys():  # noqa: SIM118 (no dict)
            layer = key.rpartition(".")[0]
            sums = squares.setdefault(layer, [0.0, 0.0, 0.0])
            shape = tau.layout[key][1]
            kinds[layer] = kind_of(layer, len(shape)) if key.endswith("weight") else kinds.get(layer, "other")
            sums[0] += tau.numel(key)
            for start, stop in piece_bounds(tau.numel(key)):
                sums[1] += float(tau.flat(key, start, stop).double().square().sum())
                sums[2] += float(opened.base_flat(key, start, stop).double().square().sum())
    for layer, (count, square, whole) in squares.items():
        relative = (square / whole) ** 0.5 if whole else np.nan
        yield [block_of(layer), layer, kinds[layer], int(count), square**0.5, relative]


def kind_of(layer: str, dimensions: int) -> str:
    """What a layer does, by its name, else by the number of dimensions of its weight."""
    for word, kind in KINDS.items():
        if word in layer:
            return kind
    return "convolution" if dimensions == 4 else "linear"


def total(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """‖τ‖/‖θ‖ over all layers of a group."""
    known = table.dropna(subset="relative")
    squares = known.assign(tau=known["norm"] ** 2, theta=(known["norm"] / known["relative"]) ** 2)
    squares = squares[squares["relative"] > 0]
    sums = squares.groupby(by, sort=False)[["tau", "theta"]].sum()
    return (sums["tau"] / sums["theta"]) ** 0.5


def colours(names: list[str]) -> dict[str, object]:
    """Experts by their range, the others in one colour of its own."""
    experts = [name for name in names if name.startswith(EXPERT)]
    shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.88, max(len(experts), 1)))
    return dict(zip(experts, shades, strict=False)) | {n: CHOSEN for n in names if n not in experts}


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """Boxes over layers, a vector each; then all layers of a kind, and of a block."""
    names = list(dict.fromkeys(table["vector"]))
    labels = [f"{n}, t in {r}" if r else n for n, r in table.groupby("vector", sort=False)["range"].first().items()]
    shades = colours(names)
    with figure(path, 10, 1.4 + 0.33 * max(len(names), 6)) as fig:
        boxes, kinds, blocks = fig.subplots(1, 3, width_ratios=[5, 4, 4])
        lengths = [100 * table.loc[table["vector"] == name, "relative"].dropna() for name in names]
        drawn = boxes.boxplot(lengths, orientation="horizontal", widths=0.6, patch_artist=True, flierprops={"ms": 2})
        for box, median, name in zip(drawn["boxes"], drawn["medians"], names, strict=True):
            box.set(facecolor=shades[name], alpha=0.55)
            median.set(color="k")
        boxes.set_yticks(range(1, len(names) + 1), labels)
        boxes.invert_yaxis()
        boxes.set(xscale="log", xlabel="‖τ‖ / ‖θ‖ of a layer, %", title="Task vectors, layer by layer")
        boxes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        boxes.xaxis.set_major_formatter("{x:g}")
        boxes.xaxis.set_minor_formatter(NullFormatter())
        _dots(kinds, total(table, ["vector", "kind"]), shades, "By kind of layer", sorted(set(table["kind"])))
        in_order = sorted(set(table["block"]), key=place_of)
        _dots(blocks, total(table, ["vector", "block"]), shades, "By block of the network", in_order)


def _dots(ax: Axes, values: pd.Series, shades: dict[str, object], title: str, groups: list[str]) -> None:
    for k, (name, colour) in enumerate(shades.items()):
        percents = 100 * values.xs(name)
        y = [groups.index(group) + 0.6 * (k / max(1, len(shades) - 1) - 0.5) for group in percents.index]
        ax.plot(percents, y, "o" if name.startswith(EXPERT) else "s", ms=4, color=colour)
    for k in range(len(groups)):
        ax.axhline(k + 0.5, color=PLAIN, linewidth=0.4, zorder=0)
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set(xlim=(0, None), xlabel="‖τ‖ / ‖θ‖, %", title=title)


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    lengths = total(table, ["vector"])
    experts = [name for name in lengths.index if name.startswith(EXPERT)]
    said = ", ".join(f"{number(100 * lengths[name])} % ({name})" for name in lengths.index)
    text = (
        "The paper saw long task vectors for t in the upper half of the timesteps and short ones in the lower half"
        f" (Fig. 7b). Here they are as long as {said} of θ."
    )
    if len(experts) > 1:
        half = len(experts) // 2
        upper, lower = lengths[experts[-half:]].mean(), lengths[experts[:half]].mean()
        ratio = upper / lower
        agrees = "as in the paper" if ratio > 1.1 else "the other way round" if ratio < 1 / 1.1 else "no difference"
        text += f" Those of the upper half are {number(ratio)} times as long as those of the lower one: {agrees}."
    kinds = total(table[table["vector"].isin(experts)], ["kind"]).sort_values()
    text += (
        f" By kind of layer, experts change {kinds.index[-1]} most ({number(100 * kinds.iloc[-1])} %) and"
        f" {kinds.index[0]} least ({number(100 * kinds.iloc[0])} %)."
    )
    return text
