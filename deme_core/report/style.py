"""The one style of our pictures: colours that the colour-blind can tell, and files that are equal for equal input."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from PIL import Image

DPI = 150
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "xtick.labelsize": 8, "ytick.labelsize": 8,
}  # fmt: skip
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
CHOSEN, PLAIN = "#D55E00", "0.55"  # vermillion of the Okabe-Ito palette, and grey


@contextmanager
def figure(path: Path, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    """A figure of `width` × `height` inches in our style, written to `path` in the end."""
    with matplotlib.style.context(["default", STYLE]):
        fig = Figure((width, height), dpi=DPI, layout=layout)
        yield fig
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, metadata={"Software": None})


def heat(
    fig: FigureBase, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float, form: str,
    label: str,
) -> Axes:  # fmt: skip
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


def square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3] of an image uint8 [C, H, W], C = 1 or 3."""
    height, width = image.shape[1:]
    rgb = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (3, height, width)).transpose(1, 2, 0)))
    return np.asarray(rgb.resize((side, side), Image.Resampling.BOX if width > side else Image.Resampling.NEAREST))
