"""What `dvc metrics show` prints of a model: a few short columns that fit a terminal. Everything is in measures/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deme_core.metrics.verdict import JUDGE


def headline(measures: Mapping[str, Any]) -> dict[str, float]:
    """The columns, of the flat measures of a model.

    Returns:
        Of a model on the training part, changes in percent against the pretrained one: `change` by all judges, `low`
        and `high`, the ends of its 95 % interval; `worst`, the change by the judge that likes the model least; by the
        extractor of the search the distance `frechet` and its `frechet_change`. Of a prompt set: `clip` with `low` and
        `high`, and `frechet` where the set has real images.
    """
    if "clip_score" in measures:
        found = {"clip": "clip_score", "low": "clip_score_low", "high": "clip_score_high", "frechet": "frechet"}
        return {short: measures[key] for short, key in found.items() if key in measures}
    change = "judges_train_change"
    return {
        "change": measures[change],
        "low": measures[f"{change}_low"],
        "high": measures[f"{change}_high"],
        "worst": measures[f"{JUDGE}{measures['judges_train_worst']}_train_change"],
        "frechet": measures["frechet_train"],
        "frechet_change": 100 * measures["frechet_train_change"] / measures["frechet_train_pretrained"],
    }


def said(measures: Mapping[str, Any]) -> str:
    """The columns in words."""
    columns = headline(measures)
    if "clip" in columns:
        real = f", Fréchet distance {columns['frechet']:.4g}" if "frechet" in columns else ""
        return f"CLIP score {columns['clip']:.2f} [{columns['low']:.2f}, {columns['high']:.2f}]{real}"
    change = f"{columns['change']:+z.1f} % [{columns['low']:+z.1f}, {columns['high']:+z.1f}] by all judges"
    return f"{change}, {columns['frechet_change']:+z.1f} % by the search's own extractor"


def write_measures(measures: Mapping[str, Any], whole: Path, short: Path) -> None:
    """Write all measures, and of them what DVC prints as metrics."""
    for file, content in ((whole, dict(measures)), (short, headline(measures))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
