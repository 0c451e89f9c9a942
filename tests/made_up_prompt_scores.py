"""Made-up scores of prompt sets, for the tests of Table 2, its gallery and the console."""

import numpy as np
import pandas as pd

from deme_core.metrics.prompt_evaluation import clip_metrics
from deme_core.report.prompt_tables import Measured

REAL = {"extractor": "e-0", "reference_images": 360}


def scores(gain: float = 0.0, prompts: int = 30, each: int = 2) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    n = prompts * each
    hard = generator.normal(30, 3, prompts)
    values = hard[np.arange(n) % prompts] + np.random.default_rng(round(1000 * abs(gain))).normal(gain, 0.2, n)
    texts = [f"prompt {k % prompts} | $x$" for k in range(n)]
    return pd.DataFrame({"image": range(n), "prompt": np.arange(n) % prompts, "text": texts, "clip_score": values})


def measured(gain: float = 0.0, frechet: float | None = None, **changes: object) -> Measured:
    table = scores(gain)
    metrics = {"set": "coco", "images": len(table), "prompts": 30, "clip_model": "m-0", "size": None} | clip_metrics(
        table
    )
    if frechet is not None:
        blocks = {f"frechet_block{k + 1}": frechet + 1 + 0.1 * k + 0.01 * np.sin(k * frechet) for k in range(6)}
        metrics |= REAL | {"frechet": frechet} | blocks
    metrics |= {"seed_block": "EVALUATION", "device": "cpu", "sampler_kind": "pndm", "sampler_steps": 25}
    return Measured(metrics | changes, table)


def two_sets() -> dict[str, dict[str, Measured]]:
    return {
        "coco": {"pretrained": measured(0, 13.4), "merged": measured(0.3, 13.1), "min_snr": measured(-0.3, 13.9)},
        "parti": {"pretrained": measured(), "merged": measured(0.001), "min_snr": measured(0)},
    }
