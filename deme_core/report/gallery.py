"""The gallery: prompt by prompt, two models' images from the same noise, with their CLIP scores."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from deme_core.errors import InputError
from deme_core.report.figures import Pair, pair_sheet
from deme_core.report.text import markdown, number

COUNT = 12  # prompts a sheet


def choose(before: pd.DataFrame, after: pd.DataFrame, count: int = COUNT) -> dict[str, list[int]]:
    """Heading -> the images of a sheet: chosen by position, and by the greatest changes of either sign.

    A sheet shows as many prompts as it can before it shows one again; by position it shows each prompt's first image.

    before, after: rows of `clip_scores` of the same images.

    Raises:
        InputError: the two are of different images or texts.
    """
    if list(before["image"]) != list(after["image"]) or list(before["text"]) != list(after["text"]):
        raise InputError("gallery: the two models have images of different prompts; `dvc repro` samples both alike")
    first = np.sort(np.unique(before["prompt"], return_index=True)[1])
    shown = min(count, len(first))
    change = after["clip_score"] - before["clip_score"]
    most = -(-count // len(first))  # images a prompt

    def greatest(changes: pd.Series) -> list[int]:
        order = changes[changes > 0].sort_values(ascending=False, kind="stable").index
        kept = before.loc[order].groupby("prompt", sort=False).head(most)
        return [int(k) for k in kept.index[:count]]

    return {
        "Evenly spread over the prompts": [int(first[k * len(first) // shown]) for k in range(shown)],
        "The greatest gains": greatest(change),
        "The greatest losses": greatest(-change),
    }


def pick(images: Iterable[torch.Tensor], wanted: Iterable[int]) -> dict[int, np.ndarray]:
    """The images of these numbers out of a stream of uint8 [k, C, H, W]: number -> [C, H, W]."""
    numbers, seen = set(wanted), 0
    found: dict[int, np.ndarray] = {}
    for part in images:
        found |= {k: part[k - seen].numpy() for k in numbers if seen <= k < seen + len(part)}
        seen += len(part)
        if len(found) == len(numbers):
            break
    return found


def write_gallery(
    folder: Path,
    name: str,
    scores: tuple[pd.DataFrame, pd.DataFrame],
    images: tuple[Iterable[torch.Tensor], Iterable[torch.Tensor]],
    models: tuple[str, str],
) -> str:
    """Write the sheets of a prompt set, NAME-1.png …, and return the Markdown that shows them.

    scores, images, models: rows of `clip_scores`, the stream of images, and the name for people, before and after.
    """
    before, after = scores
    sheets = choose(before, after)
    wanted = sorted({k for numbers in sheets.values() for k in numbers})
    left, right = (pick(stream, wanted) for stream in images)
    texts: Mapping[int, str] = dict(zip(before["image"], before["text"], strict=True))
    score = [dict(zip(table["image"], table["clip_score"], strict=True)) for table in scores]
    parts = [f"## {name}"]
    for number_of, (heading, numbers) in enumerate(sheets.items(), 1):
        if not numbers:
            parts += [f"### {heading}", "None."]
            continue
        pairs = [Pair(texts[k], left[k], right[k], score[0][k], score[1][k]) for k in numbers]
        file = f"{name}-{number_of}.png"
        pair_sheet(folder / file, pairs, f"{name}: {heading.lower()}", models)
        rows = [
            [pair.text.replace("|", "\\|"), number(pair.before_score, 1), number(pair.after_score, 1)] for pair in pairs
        ]
        parts += [f"### {heading}", f"![{heading}]({file})", markdown(["prompt", *models], rows)]
    return "\n\n".join(parts)
