"""Made-up rows of a study, for the tests of studies."""

import functools
from typing import Any

import pandas as pd
import yaml
from conftest import REPOSITORY

from conf.compose import compose_params
from studies import run as runner

STUDIES = {file.stem: yaml.safe_load(file.read_text()) for file in (REPOSITORY / "studies").glob("*.yaml")}

# Composing params takes a while, and plans and tests ask for the same.
text_of = functools.cache(lambda overrides: compose_params(list(overrides)))
runner.compose_params = lambda overrides: text_of(tuple(overrides))
plan_of = functools.cache(lambda study: runner.plan(STUDIES[study], study))


def params_of(overrides: tuple[str, ...]) -> dict[str, Any]:
    return dict(yaml.safe_load(text_of(overrides)))


def rows_of(study: str, effect: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The plan of a study and made-up rows: `effect` of each model, another luck for each seed and each block."""
    points = plan_of(study).copy()
    rows = []
    for name, overrides, seed in (
        points[["experiment", "overrides", "seed"]].drop_duplicates("experiment").itertuples(index=False)
    ):
        params = params_of(tuple(overrides))
        for model in STUDIES[study]["models"] or params["dag"]["models"]:
            change = 0.0 if model == "pretrained" else effect.get(model, -0.01) + 0.001 * seed
            row: dict[str, Any] = {"experiment": name, "overrides": " ".join(overrides), "seed": seed, "model": model}
            row |= {"N": params["N"], "iterations": params["finetune_range"]["iterations"], "copy_rate": 0.35}
            row |= {"recall": 0.9, "parameters": 40489, "macs_per_step": 944640, "weights": "0 0 1 0"}
            row |= {"images": 1200, "seed_block": "EVALUATION", "seed_blocks": 6, "reference_images": 1437}
            row |= {"sampler_kind": "ddim", "sampler_steps": 20, "sampler_spacing": "uniform", "judges": "j-4567"}
            row |= {"sampler_dtype": "float32", "device": "cpu", "extractor": "x-0123", "copy_rate_real": 0.4}
            for part in ("train", "heldout"):
                for score, size in ((f"frechet_{part}", 1.0), (f"judge_a_{part}", 2.0), (f"judge_b_{part}", 5.0)):
                    noise = [1 + 0.1 * k + 0.005 * (k % 2) for k in range(6)]
                    row |= {f"{score}_block{k}": size * luck * (1 + change) for k, luck in enumerate(noise)}
            rows.append(row)
    return points, pd.DataFrame(rows)
