"""Is θ a critical point of the loss over all t, and none of the loss over a range? (Prop. 1, Eq. 24-31.)"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from deme_core.analysis.group_gradients import gradient_products
from deme_core.analysis.products import estimate
from deme_core.analysis.run_files import SPAN, Run
from deme_core.analysis.words import listed, number, sample_of
from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.device import best_device
from deme_core.metrics.moments import Array
from deme_core.report.style import CHOSEN, PLAIN, figure
from deme_core.search.result import SearchResult
from deme_core.timesteps import TimestepRanges, span_name

ALL, MERGED = "all t", "Σ wᵢ∇Lᵢ"
BASE, MERGE = "θ", "the merge"
WITHIN = f"{BASE}, in the {SPAN}"


def compute(run: Run) -> pd.DataFrame:
    """A row a point of parameter space (`at`) and `gradient` there; of θ also those of the projected gradients.

    They are projected onto the span of the experts' task vectors. Where a search gave each block weights of its own,
    these projections are left out: their weighted sum has no place in the span.

    Columns: `squared` norm with the ends of its interval, `low` and `high`; `ratio` to the mean over the ranges, with
    those of its own. Of a search that kept 0, whose sum is 0, the sum has the weights of the best finalist.
    """
    schedule, result = run.schedule, SearchResult.read(run.search / "result.json")
    ranges = run.ranges(schedule.config.num_train_timesteps)
    kept = not any(result.weights)
    points = {BASE: run.base} | ({} if kept else {MERGE: denoiser_dir(run.models_of_N / "merged")})
    spans = [ranges.range(i) for i in range(1, ranges.N + 1)]
    name = f"{MERGED}, {'best finalist' if kept else 'searched'}"
    rows, examples = [], run.training_part()
    with run.expert_vectors() as vectors:
        products = {
            at: gradient_products(
                load_denoiser(folder), schedule, examples, spans, run.params.draws, run.params, best_device(),
                vectors if at == BASE else None,
            )
            for at, folder in points.items()
        }  # fmt: skip
    for at, found in products.items():
        sums = combinations(ranges, result.best if kept else result.weights, result.blocks)
        quantities = [ALL, *(span_name(ranges.range(i)) for i in range(1, ranges.N + 1)), name]
        grams = {at: combined(found.blocks, sums)}
        if at == BASE and not result.blocks:
            grams[WITHIN] = combined({"": found.spanned}, sums)
        for where, gram in grams.items():
            norms = estimate(gram, lambda inner: np.diagonal(inner).copy())
            ratios = estimate(gram, lambda inner: np.diagonal(inner) / np.diagonal(inner)[1:-1].mean())
            for q, quantity in enumerate(quantities):
                ends = [float(end[q]) for end in (*norms, *ratios)]
                rows.append([where, quantity, *ends, found.compared, found.weights])
    columns = ["at", "gradient", "squared", "low", "high", "ratio", "ratio_low", "ratio_high", "weights", "of"]
    return pd.DataFrame(rows, columns=columns)


def combinations(ranges: TimestepRanges, weights: Sequence[float], blocks: Sequence[str]) -> Mapping[str, Array]:
    """Block -> its rows of coefficients of ∇L_1 … ∇L_N: of ∇L over all t, of each ∇L_i, of Σ wᵢ∇Lᵢ; "" for any block.

    Args:
        weights: N that all blocks share, or N for each of `blocks`, block after block.
    """
    shares = np.diff(ranges.bounds) / ranges.T
    of_blocks = dict(zip(blocks or [""], np.reshape(weights, (-1, ranges.N)), strict=True))
    return {block: np.stack([shares, *np.eye(ranges.N), w]) for block, w in of_blocks.items()}


def combined(grams: Mapping[str, Array], sums: Mapping[str, Array]) -> Array:
    """Products of combinations of gradients, [Q, K, Q, K], over all blocks of the network."""
    parts = []
    for block, gram in grams.items():
        coefficients = sums[block] if block in sums else sums[""]
        parts.append(np.einsum("qa,akbl,rb->qkrl", coefficients, gram, coefficients))
    return np.sum(parts, axis=0)


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """Squared norms with their intervals, a panel a point."""
    points = list(dict.fromkeys(table["at"]))
    with figure(path, 6.8, 1.1 + 0.34 * len(table)) as fig:
        axes = fig.subplots(len(points), 1, squeeze=False)[:, 0]
        for ax, at in zip(axes, points, strict=True):
            rows = table[table["at"] == at].reset_index(drop=True)
            for y, row in rows.iterrows():
                colour = CHOSEN if y == 0 else "#0072B2" if y == len(rows) - 1 else "0.25"
                told = row["low"] > 0
                ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6)
                ax.plot(row["squared"], y, "o", color=colour, ms=6, mfc=colour if told else "w")
            ax.axvline(0, color=PLAIN, linewidth=0.8, zorder=0)
            ax.set_yticks(range(len(rows)), rows["gradient"])
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.set_title(f"At {at} (open: not told from 0)")
        axes[-1].set_xlabel("squared norm of the gradient, without bias, with 95 % interval")


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the proof assumes, and what is seen here."""
    text = (
        "The proof of Prop. 1 assumes that the gradient over all t is 0 at θ and that of a range is not. Here"
        f"{sample_of(run, table)}"
    )
    for at, rows in table.groupby("at", sort=False):
        whole, *parts, merged = [row for _, row in rows.iterrows()]
        told = sum(row["low"] > 0 for row in parts)
        text += (
            f", at {at} the squared norm over all t is {listed(whole['squared'], whole['low'], whole['high'])}, that of"
            f" a range is told from 0 in {told} of {len(parts)}"
        )
        if told:
            text += f", and their mean is {number(np.mean([row['squared'] for row in parts]))}"
            share, low, high = (100 * whole[end] for end in ("ratio", "ratio_low", "ratio_high"))
            if np.isfinite([share, low, high]).all():
                text += f", of which that over all t is {number(share)} % [{number(low)}, {number(high)}]"
        text += f"; that of {merged['gradient']} is {listed(merged['squared'], merged['low'], merged['high'])}"
    if (table.loc[table["at"].isin([BASE, WITHIN]) & (table["gradient"] == ALL), "low"] > 0).any():
        end = "Over all t it is told from 0: the assumption does not hold exactly, and more training could help."
    elif (table["low"] > 0).any():
        end = "That agrees with the assumption as far as this sample tells."
    else:
        end = "The sample is too small to tell any of them from 0; raise `analyse.draws`."
    return f"{text}. {end}"
