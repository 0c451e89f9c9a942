"""Pictures of base and merge from the same noise: the first ones, and where they differ most (Fig. 5 and 6)."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deme_core.analysis.run_files import Run
from deme_core.analysis.words import number
from deme_core.data.archive import read_images
from deme_core.metrics.feature_files import read_features
from deme_core.report.style import DPI, figure, square
from deme_core.search.result import SearchResult
from deme_core.tensors import read_recipe

FIRST, MOST = "first", "most changed"
COLUMNS, LARGEST = 6, 96  # pairs a row; pixels of a picture's side
NAMES = {"merged": "the merge with searched w", "merged_uniform": "the merge with w = 1/N"}


def compute(run: Run) -> pd.DataFrame:
    """A row a pair that is shown: `model` after, number of the image, `why` it is shown, distance of its features.

    Beside it the mean `distance` over all images, and as `unrelated` that of two images of the base from other noise.
    Where the search kept w = 0 the merge with w = 1/N is shown, since the searched one is the base.
    """
    model = "merged" if any(SearchResult.read(run.search / "result.json").weights) else "merged_uniform"
    base = run.features / "pretrained.safetensors"
    extractor = str(read_recipe(base).get("extractor_sha256"))
    before, after = (read_features(f, extractor) for f in (base, run.features / f"n{run.N}" / f"{model}.safetensors"))
    changed = np.linalg.norm(after - before, axis=1)
    unrelated = float(np.linalg.norm(before - np.roll(before, 1, 0), axis=1).mean())
    count = min(run.params.pictures, len(changed))
    rows = [[model, k, FIRST, changed[k]] for k in range(count)]
    rows += [[model, int(k), MOST, changed[k]] for k in np.argsort(-changed, kind="stable")[:count]]
    table = pd.DataFrame(rows, columns=["model", "image", "why", "distance"])
    return table.assign(mean=float(changed.mean()), unrelated=unrelated, images=len(changed))


def draw(table: pd.DataFrame, run: Run, path: Path) -> None:
    """Two sections of pairs in reading order, base on the left; pixels of small pictures are enlarged whole."""
    model = table["model"].iloc[0]
    folders = run.samples / "pretrained", run.samples / f"n{run.N}" / model
    pictures = [_pictures(folder, table["image"].tolist()) for folder in folders]
    size = pictures[0].shape[-1]
    side = size * max(1, round(72 / size)) if size <= LARGEST else LARGEST
    groups = [(why, np.flatnonzero(table["why"] == why)) for why in (FIRST, MOST)]
    gap, head = 12, 40
    wide, high = 2 * side + 4 + gap, side + gap
    lines = [-(-len(chosen) // COLUMNS) for _, chosen in groups]
    width, height = COLUMNS * wide + gap, sum(head + high * line for line in lines) + gap
    with figure(path, width / DPI, height / DPI, layout="none") as fig:
        top = height
        for (why, chosen), line in zip(groups, lines, strict=True):
            text = "Those that differ most in features"
            if why == FIRST:
                text = f"The first pairs from the same noise: base, and {NAMES[model]}"
            fig.text(gap / width, (top - 10) / height, text, size=9, va="top")
            top -= head
            for k, row in enumerate(chosen):
                left, bottom = gap + k % COLUMNS * wide, top - (k // COLUMNS + 1) * high + gap
                for which, images in enumerate(pictures):
                    fig.figimage(square(images[row], side), left + which * (side + 4), bottom)
            top -= high * line


def _pictures(folder: Path, wanted: list[int]) -> np.ndarray:
    """uint8 [n, C, H, W] of images by their number."""
    found: dict[int, torch.Tensor] = {}
    start = 0
    for part in read_images(folder, max(wanted) + 1):
        found |= {k: part[k - start] for k in set(wanted) if start <= k < start + len(part)}
        start += len(part)
    return torch.stack([found[k] for k in wanted]).numpy()


def caption(table: pd.DataFrame, run: Run) -> str:
    """What the paper saw, and what is seen here."""
    row = table.iloc[0]
    kept = " The search kept w = 0, whose images are the base's." if row["model"] != "merged" else ""
    share, most = 100 * row["mean"] / row["unrelated"], 100 * table["distance"].max() / row["unrelated"]
    return (
        "The paper's pairs from the same noise show structures that the base lacks (Fig. 5 and 6)."
        f"{kept} Here {NAMES[str(row['model'])]} changes an image's features by {number(share)} % of the distance"
        f" between two unrelated images on average over {row['images']:,}, and by {number(most)} % at most. Which of a"
        " pair is better the judges say, not the eye."
    )
