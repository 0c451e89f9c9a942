"""Do the gradients of different timesteps agree? Their cosine similarity at θ, bin by bin (the paper's Fig. 1a)."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from deme_core.analysis.group_gradients import gradient_products
from deme_core.analysis.products import Estimates, Mask, cosines, estimate
from deme_core.analysis.run_files import SPAN, Run
from deme_core.analysis.words import listed, rows_of, sample_of
from deme_core.checkpoints import load_denoiser
from deme_core.device import best_device
from deme_core.metrics.moments import Array
from deme_core.report.style import CHOSEN, DIVERGING, PLAIN, figure
from deme_core.timesteps import Span, TimestepRanges, span_name

WHOLE = "whole network"
NORM, PAIR = "squared norm", "cosine"
SAME, NEXT, OTHER = "same range", "neighbours", "different ranges"
KINDS = (NEXT, SAME, OTHER)


def compute(run: Run) -> pd.DataFrame:
    """A row an estimate: `block` of the network, `what` it is, of which bins `a` and `b`, and its interval.

    Before the blocks stand the whole network, and the gradients' projections onto the span of the experts' task
    vectors: what a merge of them can follow, with the noise of so few dimensions.

    `what` is a squared norm of a bin's gradient, the cosine of two bins' gradients, or the mean cosine over pairs of a
    kind. A cosine is there where both norms are told from 0: of the others the sample does not say where they point.
    """
    schedule = run.schedule
    ranges = run.ranges(schedule.config.num_train_timesteps)
    spans = bins(ranges, run.params.bins)
    with run.expert_vectors() as vectors:
        found = gradient_products(
            load_denoiser(run.base), schedule, run.training_part(), spans, run.params.draws // run.params.bins,
            run.params, best_device(), vectors,
        )  # fmt: skip
    kinds = kinds_of_pairs(spans, ranges)
    names = list(map(span_name, spans))
    grams = {WHOLE: found.whole, SPAN: found.spanned} | found.blocks
    rows = [row for block, gram in grams.items() for row in _rows(block, gram, kinds)]
    table = pd.DataFrame(rows, columns=["block", "what", "a", "b", "value", "low", "high"])
    for end in "ab":
        table[end] = [names[int(k)] if k >= 0 else "" for k in table[end]]
    table["weights"], table["of"] = found.compared, found.weights
    return table


def bins(ranges: TimestepRanges, count: int) -> list[Span]:
    """Every range in `count` parts as equal as whole timesteps allow; fewer where a range has fewer timesteps."""
    spans = []
    for low, high in pairwise(ranges.bounds):
        edges = np.linspace(low, high, min(count, high - low) + 1).round().astype(int).tolist()
        spans += list(pairwise(edges))
    return spans


def kinds_of_pairs(spans: Sequence[Span], ranges: TimestepRanges) -> dict[str, Mask]:
    """Kind -> which pairs are of it, bool [R, R], each pair once; neighbours may be of one range or of two."""
    R = len(spans)
    experts = np.array([ranges.expert(low) for low, _ in spans])
    upper = np.triu(np.ones((R, R), dtype=bool), 1)
    near = np.abs(np.subtract.outer(np.arange(R), np.arange(R))) == 1
    same = np.equal.outer(experts, experts)
    return {NEXT: upper & near, SAME: upper & same, OTHER: upper & ~same}


def _rows(block: str, gram: Array, kinds: dict[str, Mask]) -> Iterator[list]:
    norms = estimate(gram, lambda inner: np.diagonal(inner).copy())
    R = len(norms.value)
    for a in range(R):
        yield [block, NORM, a, a, *_at(norms, a)]
    known = norms.low > 0
    pairs = estimate(gram, cosines)
    both = np.outer(known, known)
    for a, b in zip(*np.nonzero(np.triu(both, 1)), strict=True):
        yield [block, PAIR, a, b, *_at(pairs, (a, b))]
    for kind, of_kind in kinds.items():
        if (chosen := of_kind & both).any():
            mean = estimate(gram, partial(_mean_cosine, chosen=chosen))
            yield [block, kind, -1, -1, *_at(mean, ())]


def _mean_cosine(inner: Array, chosen: Mask) -> Array:
    return np.asarray(cosines(inner)[chosen].mean())


def _at(found: Estimates, where: Any) -> list[float]:
    return [float(end[where]) for end in found]


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """The matrices of the whole network and of the span; beside them the mean cosines of each block."""
    with figure(path, 13, 4.3) as fig:
        *matrices, right = fig.subfigures(1, 3, width_ratios=[10, 10, 9], squeeze=False)[0]
        for part, block in zip(matrices, (WHOLE, SPAN), strict=True):
            _matrix(part, table[table["block"] == block], block)
        _blocks(right.subplots(), table)


def _matrix(fig: SubFigure, rows: pd.DataFrame, title: str) -> None:
    names = rows.loc[rows["what"] == NORM, "a"].tolist()
    place = {name: k for k, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    told = np.zeros_like(matrix, dtype=bool)
    for row in rows_of(rows[rows["what"] == PAIR]):
        for i, j in ((place[row.a], place[row.b]), (place[row.b], place[row.a])):
            matrix[i, j], told[i, j] = row.value, row.low > 0 or row.high < 0
    for row in rows_of(rows[rows["what"] == NORM]):
        if row.low > 0:
            matrix[place[row.a], place[row.a]] = 1
    ax = fig.subplots()
    ax.set_facecolor("0.92")
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap=DIVERGING, vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(matrix):
        if i != j and told[i, j] and len(names) <= 12:
            text = f"{value:.2f}".replace("-", "−")
            ax.text(j, i, text, ha="center", va="center", size=6.5, color="w" if abs(value) > 0.6 else "k")
        elif i != j and np.isfinite(value):
            ax.text(j, i, "·", ha="center", va="center", color="0.3")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"Cosines of gradients at θ, {title}\ngrey: too noisy; dot: not told from 0", size=9)
    fig.colorbar(image, shrink=0.75, aspect=30)


def _blocks(ax: Axes, table: pd.DataFrame) -> None:
    blocks = list(dict.fromkeys(table["block"]))
    for k, kind in enumerate(KINDS):
        colour, marker = ((CHOSEN, "o"), ("#0072B2", "s"), ("k", "D"))[k]
        rows = table[table["what"] == kind].set_index("block")
        if not len(rows):
            continue
        y = np.array([blocks.index(block) for block in rows.index]) + 0.22 * (k - 1)
        ax.errorbar(
            rows["value"], y, xerr=[rows["value"] - rows["low"], rows["high"] - rows["value"]], fmt=marker, ms=4,
            color=colour, linewidth=1.2, label=kind,
        )  # fmt: skip
    ax.axvline(0, color=PLAIN, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(blocks)), blocks)
    ax.set_ylim(len(blocks) - 0.5, -0.5)
    ax.set_xlabel("mean cosine, with 95 % interval")
    ax.set_title("By block of the network", size=9)
    if ax.containers:  # a sample too small shows no kind
        ax.figure.legend(loc="outside lower center", ncols=3, fontsize=7.5)


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    dimensions = f"{run.N} of {int(table['of'].iloc[0]):,} dimensions"
    return (
        "The paper saw similar gradients at adjacent timesteps and dissimilar ones at distant ones (Fig. 1a). Here the"
        f" gradient is told from 0 in {_seen(table, WHOLE, sample_of(run, table))} In the span of the experts' task"
        f" vectors, {dimensions}, which are all that a merge can follow, it is told from 0 in {_seen(table, SPAN)}"
    )


def _seen(table: pd.DataFrame, block: str, sample: str = "") -> str:
    rows = table[table["block"] == block]
    norms, pairs = (rows[rows["what"] == what] for what in (NORM, PAIR))
    text = f"{int((norms['low'] > 0).sum())} of {len(norms)} bins of t{sample}"
    if not len(pairs):
        return f"{text}: the sample is too small to tell which way they point; raise `analyse.draws`."
    told = pairs[(pairs["low"] > 0) | (pairs["high"] < 0)]
    below = int((told["high"] < 0).sum())
    text += (
        f". Of the cosines between these, by their intervals, {len(told) - below} lie above 0, {below} below it, and"
        f" {len(pairs) - len(told)} are not told from 0."
    )
    means = [f"{row.what} {listed(row.value, row.low, row.high)}" for row in rows_of(rows[rows["what"].isin(KINDS)])]
    return f"{text} Mean cosine of pairs of bins: {'; '.join(means)}."
