"""Do the task vectors point the same way? Cosines of all pairs, of experts and of all others (the paper's Fig. 8)."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from deme_core.analysis.names import EXPERT
from deme_core.analysis.run_files import Run
from deme_core.analysis.words import number, rows_of
from deme_core.errors import InputError
from deme_core.merging.task_vectors import cosines as cosines_of
from deme_core.report.style import figure, heat
from deme_core.tensors import shapes

LABELLED = 14  # vectors, up to which each cell carries its number


def compute(run: Run) -> pd.DataFrame:
    """A row a pair of vectors, `a` and `b`: their `cosine`, and how far from 0 that of random vectors would be.

    Vectors of other layers than the experts' (of a run whose projections stay) have no cosine with them, and no row.
    """
    files = run.vectors()
    layout = shapes(next(iter(files.values())))
    files = {name: file for name, file in files.items() if shapes(file) == layout}
    if len(files) < 2:
        raise InputError("the figure cosines compares task vectors, and this run has one; raise N, or leave it out")
    matrix = cosines_of(list(files.values()))
    weights = sum(int(np.prod(shape)) for shape in layout.values())
    rows = [[a, b, matrix[i, j]] for (i, a), (j, b) in combinations(enumerate(files), 2)]
    return pd.DataFrame(rows, columns=["a", "b", "cosine"]).assign(chance=1.96 / weights**0.5)


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """All pairs as a matrix."""
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    place = {name: k for k, name in enumerate(names)}
    matrix = np.eye(len(names))
    for row in rows_of(table):
        matrix[place[row.a], place[row.b]] = matrix[place[row.b], place[row.a]] = row.cosine
    side = 1.6 + (0.42 if len(names) <= LABELLED else 0.25) * len(names)
    with figure(path, side + 1.8, side) as fig:
        ax = heat(fig, matrix, names, names, 1.0, "z.2f", "cosine similarity")
        for text in ax.texts:
            text.set(size=6.5, visible=len(names) <= LABELLED)
        ax.tick_params(axis="x", rotation=45)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        ax.set_title("Cosine similarity of the task vectors")


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    expert_a, expert_b = table["a"].str.startswith(f"{EXPERT} "), table["b"].str.startswith(f"{EXPERT} ")
    among, beside = table[expert_a & expert_b], table[expert_a ^ expert_b]
    chance = float(table["chance"].iloc[0])
    text = (
        "The paper saw task vectors of different ranges that are close to orthogonal, 0.07 for the pair that it names"
        f" (Fig. 8). Random vectors of as many weights have cosines within ±{number(chance)} in 95 of 100 pairs."
    )
    for pairs, what in ((among, "of two experts"), (beside, "of an expert and another vector")):
        if len(pairs):
            low, high = pairs["cosine"].min(), pairs["cosine"].max()
            beyond = int((pairs["cosine"].abs() > chance).sum())
            largest = pairs.iloc[int(pairs["cosine"].abs().to_numpy().argmax())]
            text += (
                f" Here the {len(pairs)} cosines {what} lie between {number(low)} and {number(high)}, {beyond} of them"
                f" beyond that; the largest is that of {largest['a']} and {largest['b']}."
            )
    return text
