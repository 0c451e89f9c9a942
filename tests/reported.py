"""Made-up metrics, and a real search on a made-up score, for the tests of the report."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from deme_core.dag import DEME
from deme_core.report.tables import results
from deme_core.search.result import SearchResult
from deme_core.search.search import search
from deme_core.search.settings import SearchParams
from deme_core.search.trials import TrialLog

RANGES = {1: ["[0, 1000)"], 2: ["[0, 500)", "[500, 1000)"], 4: [f"[{t}, {t + 250})" for t in range(0, 1000, 250)]}


def metrics(change: tuple[float, float, float] = (0, 0, 0), heldout: bool = True, **other: Any) -> dict[str, Any]:
    """Flat metrics; `change` to the training part is (value, low, high), that to the held-out part its negative."""
    out: dict[str, Any] = {"images": 1200, "seed_block": "EVALUATION", "seed_blocks": 6, "reference_images": 1437}
    out |= {"device": "cpu", "judges": "group-0123"}
    for part, sign in {"train": 1, "heldout": -1}.items() if heldout else {"train": 1}.items():
        value, *ends = (sign * x for x in change)
        out |= {f"frechet_{part}": 0.8, f"frechet_{part}_corrected": 0.5}
        out |= {f"frechet_{part}_low": 0.25, f"frechet_{part}_high": 0.75, f"frechet_{part}_change": value}
        out |= {f"frechet_{part}_change_low": min(ends), f"frechet_{part}_change_high": max(ends)}
    out |= {"kid_train": 0.004, "kid_train_low": 0.003, "kid_train_high": 0.005, "copy_rate": 0.25}
    out |= {"copy_rate_real": 0.405} if heldout else {}
    sampler = {"sampler_kind": "ddim", "sampler_steps": 20, "sampler_spacing": "uniform", "sampler_dtype": "float32"}
    return out | sampler | {"extractor": "x-0123", "parameters": 634273, "macs_per_step": 15003648} | other


def all_metrics(**other: Any) -> dict[str, dict[str, Any]]:
    """Of the pretrained model and DeMe's own."""
    changes = [(0, 0, 0), (-0.2, -0.3, -0.1), (0.4, 0.2, 0.6), (-0.1, -0.3, 0.1)]
    return {model: metrics(change, **other) for model, change in zip(("pretrained", *DEME), changes, strict=True)}


def table_of(**other: Any) -> pd.DataFrame:
    """The results of a run without baselines: N = 2, 800 steps an expert."""
    return results(all_metrics(**other), 2, 800)


def searched(directory: Path, N: int, method: str = "grid") -> tuple[pd.DataFrame, SearchResult]:
    """Trials and result of a real search on a made-up score, whose luck differs between rounds and blocks."""
    params = SearchParams(
        method=method, objective="frechet", budget=4100, images=50, bounds=(-0.5, 1.5), fixed=None,
        values=(0, 0.25, 1), scales=(), away=(), per_block=False, towards_shared=0.001,
        seed=0, finalists=3, final_images=400, final_blocks=4,
    )  # fmt: skip
    log = TrialLog(directory / "trials.csv", N)
    best = np.linspace(0.2, 0.6, N)

    def score(w: Any, block: int, first: int, images: int) -> float:
        return 1 + float(np.sum((w - best) ** 2)) + (block + first) / 1000 * (1 + sum(w))

    loss = SimpleNamespace(value=lambda w, *_: 0.2 * score(w, 0, 0, 0))
    result = search(score, loss, N, params, log, 20)  # type: ignore[arg-type]
    log.export(directory / "trials.csv")
    return pd.read_csv(directory / "trials.csv"), result


ROWS = [  # round, first, images, w1, w2, score
    ("search", 0, 10, 0.0, 0.0, 5.0), ("search", 0, 10, 0.5, 0.5, 4.0), ("search", 0, 10, 0.25, 0.0, 3.5),
    ("search", 10, 10, 0.5, 0.5, 4.5), ("search", 10, 10, 0.0, 0.0, 7.0), ("search", 10, 20, 0.5, 0.5, 0.0),
    ("search", 20, 10, 0.5, 0.5, 0.0), ("loss", 0, 10, 0.5, 0.5, 0.1), ("loss", 0, 10, 0.0, 0.0, 0.25),
    ("confirm", 0, 20, 0.0, 0.0, 2.0), ("confirm", 0, 20, 0.25, 0.0, 1.5), ("confirm", 0, 20, 0.5, 0.5, 1.75),
]  # fmt: skip
TRIALS = pd.DataFrame(ROWS, columns=["round", "first", "images", "w1", "w2", "score"])
