"""The figures by name, and the files that each leaves: numbers, picture, caption."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from deme_core.analysis import activations, before_after, cosines, critical_point, gradients, landscape, vectors
from deme_core.analysis.run_files import Run

FORMAT = "%.5g"  # of a number in a CSV, which git keeps


class Figure(NamedTuple):
    """How a figure is made: its numbers first, and picture and caption of them."""

    title: str
    compute: Callable[[Run], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Run, Path], None]
    caption: Callable[[pd.DataFrame, Run], str]


FIGURES = {
    "gradients": Figure("Gradients at different timesteps", gradients.compute, gradients.draw, gradients.caption),
    "critical_point": Figure(
        "Is the pretrained model at a critical point?", critical_point.compute, critical_point.draw,
        critical_point.caption,
    ),
    "vectors": Figure("Task vectors, layer by layer", vectors.compute, vectors.draw, vectors.caption),
    "cosines": Figure("Cosines of the task vectors", cosines.compute, cosines.draw, cosines.caption),
    "landscape": Figure("The loss around θ", landscape.compute, landscape.draw, landscape.caption),
    "activations": Figure(
        "Activations, by channel and by position", activations.compute, activations.draw, activations.caption,
    ),
    "before_after": Figure("Pictures before and after", before_after.compute, before_after.draw, before_after.caption),
}  # fmt: skip


def write_figure(name: str, run: Run, out: Path) -> str:
    """Write out/NAME.csv, NAME.png and NAME.md; the caption.

    Raises:
        InputError: the run has not what the figure needs.
    """
    made = FIGURES[name]
    table = made.compute(run)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / f"{name}.csv", index=False, float_format=FORMAT)
    made.draw(table, run, out / f"{name}.png")
    caption = made.caption(table, run)
    (out / f"{name}.md").write_text(f"# {made.title}\n\n![{made.title}]({name}.png)\n\n{caption}\n", encoding="utf-8")
    return caption
