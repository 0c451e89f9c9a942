"""The scores of a study's models, a row a training seed, and how its pages speak of them."""

import re

import numpy as np
import pandas as pd

from deme_core.report.claims import TRAIN
from deme_core.report.verdicts import Scores, ratios

INTERVALS = (
    "cover both the luck of training (seeds) and that of sampling (blocks of noise, which all models share); none is"
    " widened for the number of comparisons"
)


def scores_of(table: pd.DataFrame) -> Scores:
    """Model -> a score's name -> [S, K]: a row a training seed, a column a block of noise."""
    columns = [match for column in map(str, table) if (match := re.fullmatch(r"(.+)_block\d+", column))]
    names = list(dict.fromkeys(column[1] for column in columns))
    found: dict[str, dict[str, np.ndarray]] = {}
    for model, rows in table.groupby("model", sort=False):
        rows = rows.sort_values("seed")
        found[str(model)] = {
            name: rows[[column[0] for column in columns if column[1] == name]].to_numpy(float) for name in names
        }
    return found


def by_seed(scores: Scores, model: str, other: str) -> list[float]:
    """The change of each training seed in percent, by all judges."""
    return (100 * np.expm1(np.mean(list(ratios(scores, model, other, TRAIN).values()), axis=(0, 2)))).tolist()
