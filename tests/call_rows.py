"""Rows of studies that measured two models with 5, 10 and 20 network calls, on planted distances."""

import numpy as np
import pandas as pd

BASE = {5: 4.0, 10: 2.0, 20: 1.0}  # neon has half of each: with 10 calls what the base has with 20


def study_rows(models: tuple[str, ...] = ("pretrained", "neon")) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    noise = rng.lognormal(0, 0.3, 4)  # of a block, which all models and calls share
    for count, distance in BASE.items():
        for seed in range(3):
            for model in models:
                luck = 1.0 if model == "pretrained" else rng.lognormal(0, 0.02)
                values = distance * (0.5 if model == "neon" else 1.0) * luck * noise
                plms = count == 20
                rows.append(
                    {
                        "seed": seed, "model": model, "images": 4000, "seed_block": "EVALUATION", "seed_blocks": 4,
                        "sampler_kind": "pndm" if plms else "unipc", "sampler_steps": count - plms,
                        "sampler_spacing": "trailing", "device": "cpu", "judges": "final",
                    }
                    | {f"judge_{judge}_train_block{k}": value for judge in "ab" for k, value in enumerate(values)}
                )  # fmt: skip
    return pd.DataFrame(rows)
