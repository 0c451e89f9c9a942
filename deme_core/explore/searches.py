"""What the searches of a run found, and what their trials predict."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deme_core.errors import InputError
from deme_core.explore.prediction import NoPrediction, Surrogate
from deme_core.metrics.intervals import Interval
from deme_core.search.objective import relative
from deme_core.search.result import SearchResult
from deme_core.search.spaces import Each, Space
from deme_core.search.trials import Weights


@dataclass(frozen=True)
class Search:
    """One search of a run."""

    model: str
    """What the search makes, such as `merged`."""
    directions: tuple[str, ...]
    """Whose task vectors it moved, in their order."""
    space: Space
    folder: Path
    """Of result.json and trials.csv."""

    @cached_property
    def result(self) -> SearchResult:
        """What it found."""
        return SearchResult.read(self.folder / "result.json")

    @cached_property
    def surrogate(self) -> Surrogate:
        """The quadratic through its trials; that of steps is one of logarithms, as in the search for several.

        Raises:
            NoPrediction: they do not fix one.
        """
        if self.result.blocks:
            raise NoPrediction("the search gave every block of the network weights of its own")
        steps = not isinstance(self.space, Each)
        return Surrogate.of(read_trials(self.folder), self.space, logarithm=steps and relative(self.result.objective))


@dataclass(frozen=True)
class Prediction:
    """Of one search."""

    search: Search
    change: Interval
    """Of the score against w = 0: in percent where the objective is `relative`, else in its own units."""

    @property
    def unit(self) -> str:
        """Of the change."""
        return self.search.result.best_change_unit


def predict(searches: Sequence[Search], places: dict[str, range], weights: Weights) -> Prediction:
    """What is known of these weights, by the search over the fewest directions that holds them.

    Args:
        places: direction -> where its vectors stand among all weights.

    Raises:
        NoPrediction: nothing is.
    """
    if not searches:
        raise NoPrediction("there is no search here")
    moved = {name for name, place in places.items() if any(weights[i] for i in place)}
    fitting = sorted((s for s in searches if moved <= {*s.directions}), key=lambda s: len(s.directions))
    if not fitting:
        raise NoPrediction(f"no search has moved {' and '.join(sorted(moved))} at once; the direction joint does")
    reasons = []
    for search in fitting:
        search_weights = [weights[i] for name in search.directions for i in places[name]]
        try:
            found = search.surrogate.at(search_weights)
        except NoPrediction as reason:
            reasons.append(reason)
            continue
        factor = 100 / search.surrogate.zero if search.result.best_change_unit else 1.0
        return Prediction(search, Interval(factor * found.value, factor * found.low, factor * found.high))
    raise reasons[0]


def read_trials(folder: Path) -> dict[Weights, float]:
    """Weights -> score on the first images of the first round, from a search's trials.csv.

    Raises:
        InputError: there is no such file.
    """
    if not (path := folder / "trials.csv").is_file():
        raise InputError(f"{path}: no such file; `dvc repro` runs the search again")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == "search" and row["first"] == "0"]
    names = [name for name in rows[0] if name[1:].isdigit()] if rows else []
    return {tuple(float(row[name]) for name in names): float(row["score"]) for row in rows}
