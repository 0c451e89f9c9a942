"""What captions say of an estimate, from its numbers alone."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from deme_core.analysis.run_files import Run


def number(value: float) -> str:
    """Three digits, with a true minus sign."""
    if value and not 1e-3 <= abs(value) < 1e4:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa}·10^{int(exponent)}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Rows with a column an attribute; what is in one the type checker cannot know."""
    return iter(table.itertuples())


def interval(row: Any) -> str:
    """A row's `value` with the ends of its interval."""
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"


def listed(value: float, low: float, high: float) -> str:
    """An estimate with its interval, and whether it is told from 0."""
    if not all(map(math.isfinite, (value, low, high))):
        return "not known at this sample"
    told = low > 0 or high < 0
    return f"{number(value)} [{number(low)}, {number(high)}]" + ("" if told else ", not told from 0")


def sample_of(run: Run, table: pd.DataFrame) -> str:
    """How many draws gradients rest on, and how many weights they are compared by, where these are not all."""
    draws = run.params.groups * run.params.draws
    compared, weights = int(table["weights"].iloc[0]), int(table["of"].iloc[0])
    some = "" if compared == weights else f", by {compared:,} of {weights:,} weights drawn at random"
    return f" ({draws:,} draws a range in {run.params.groups} independent groups{some})"
