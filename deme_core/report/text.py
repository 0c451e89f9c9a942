"""Names of models and parts, numbers and tables as people read them."""

import math
from typing import Any

from deme_core.dag import AWAY, EARLY, FURTHER, JOINT, MATCHED, NEON, NONNEGATIVE, RANDOM, SCALE, is_random

MODELS = {
    "pretrained": "pretrained",
    "ensemble": "DeMe before merge (ensemble)",
    "merged_uniform": "DeMe merged, w = 1/N",
    "merged": "DeMe merged, searched w",
    NONNEGATIVE: "DeMe merged, searched w ≥ 0",
    "full_range": "full-range finetune",
    "snr_plus_one": "SNR+1",
    "truncated_snr": "truncated SNR",
    "min_snr": "Min-SNR-γ",
    "soup_full_range": "soup of N full-range finetunes",
    "soup_full_range+weights": "soup of N full-range finetunes, searched w",
    "soup_greedy": "greedy soup of the experts",
    "loss_equivalent": "loss equivalent of the merge",
    AWAY: "away from own samples, no search",
    NEON: "away from own samples, searched step (Neon)",
    FURTHER[EARLY].model: "away from an earlier checkpoint, searched step",
    FURTHER[SCALE].model: "ε scaled, searched factor",
    JOINT: "DeMe and the steps above in one search",
    MATCHED: "pretrained, brightness and contrast of the data",
}
ENDS = {
    "scale": ", searched scale",
    "ranges": ", several trainings by ranges",  # these two stand in studies of the trainings on own samples
    "copies": ", several trainings of the full range",
}
PARTS = {"train": "training part", "heldout": "held-out part"}  # the latter where images are held out


def model_name(model: str) -> str:
    """What a model is called in tables and pictures."""
    if is_random(model):
        return f"random vectors, searched w (draw {model.removeprefix(RANDOM)})"
    name, _, end = model.rpartition("+")
    return MODELS[name] + ENDS[end] if name and end in ENDS else MODELS[model]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def number(value: float, digits: int, sign: str = "") -> str:
    """A value with a true minus sign; a dash where there is none."""
    return "—" if math.isnan(value) else f"{value:{sign}z.{digits}f}".replace("-", "−")


def interval(row: Any, key: str, digits: int, sign: str = "", value: str = "") -> str:
    """`row[key + value]` and the ends of its interval: −12.3 [−15.0, −9.5]."""
    shown, low, high = (number(row[key + end], digits, sign) for end in (value, "_low", "_high"))
    return f"{shown} [{low}, {high}]"
