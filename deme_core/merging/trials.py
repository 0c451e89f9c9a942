"""The log of a search: every score is on disk as it is found, and none is computed twice."""

import csv
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deme_core.tensors import atomic_file

Weights = tuple[float, ...]


class Trial(NamedTuple):
    """What a row of trials.csv scores: w on the images `first` to `first + images − 1` of a round's seeds."""

    round: str
    first: int
    images: int
    weights: Weights


class TrialLog:
    """trials.csv. Slopes of the loss are not in it: a resumed search by `gradient` computes them again."""

    def __init__(self, path: Path, N: int) -> None:
        self.path, self.header = path, ["round", "first", "images", *(f"w{i}" for i in range(1, N + 1)), "score"]
        self.scores: dict[Trial, float] = {}
        self.used: dict[Trial, float] = {}
        if path.is_file():
            # A line cut short by a kill is the last one, and is dropped.
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            for round, first, images, *weights, score in list(csv.reader(lines))[1:]:
                self.scores[Trial(round, int(first), int(images), tuple(map(float, weights)))] = float(score)
            self._write(path, self.scores)

    def score(self, trial: Trial, score: Callable[[], float]) -> float:
        """The logged score of this trial, or a new one, logged."""
        if trial not in self.scores:
            if not self.path.is_file():
                self._write(self.path, {})
            self.scores[trial] = float(score())
            with self.path.open("a") as file:
                file.write(self._line(trial, self.scores[trial]))
                file.flush()
                os.fsync(file.fileno())
        self.used[trial] = self.scores[trial]
        return self.used[trial]

    def export(self, path: Path) -> None:
        """Write the trials of this search alone: a log that went on may hold those of other settings."""
        self._write(path, self.used)

    def _write(self, path: Path, scores: dict[Trial, float]) -> None:
        with atomic_file(path) as file:
            file.write("".join([",".join(self.header) + "\n", *itertools.starmap(self._line, scores.items())]).encode())

    @staticmethod
    def _line(trial: Trial, score: float) -> str:
        return ",".join([trial.round, str(trial.first), str(trial.images), *map(repr, (*trial.weights, score))]) + "\n"
