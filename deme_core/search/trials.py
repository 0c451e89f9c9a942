"""The log of a search: every score is on disk as it is found, and none is computed twice."""

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from deme_core.errors import InputError
from deme_core.processes import agreed, is_main, partial_state, wait
from deme_core.tensors import atomic_file

Weights = tuple[float, ...]


class Trial(NamedTuple):
    """What a row of trials.csv scores: w on the images `first` to `first + images − 1` of a round's seeds."""

    round_name: str
    first: int
    images: int
    weights: Weights


class TrialLog:
    """trials.csv, and beside it the slopes that were sampled. Those of the loss are cheap, and computed again by a
    resumed search.

    Of several processes each knows all scores, and the main one writes them. They share the images of a trial, but of
    trials that are expected each scores one.
    """

    def __init__(self, path: Path, N: int) -> None:
        self.path, self.header = path, ["round", "first", "images", *(f"w{i}" for i in range(1, N + 1)), "score"]
        self.scores: dict[Trial, float] = {}
        self.used: dict[Trial, float] = {}
        self.coming: list[Trial] = []  # of `expect`
        there = path.is_file()
        if there:
            # A line cut short by a kill is the last one, and is dropped.
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            for round_name, first, images, *weights, score in list(csv.reader(lines))[1:]:
                self.scores[Trial(round_name, int(first), int(images), tuple(map(float, weights)))] = float(score)
        self.slopes: dict[str, tuple[float, list[float]]] = {}
        sloped = self._beside.is_file()
        if sloped:
            lines = self._beside.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [json.loads(line) for line in lines if line.endswith("\n")]
            self.slopes = {key: (value, slope) for key, value, slope in whole}
        wait()  # no process may read what another one has already added to
        if there:
            self._write(path, self.scores)
        if sloped and is_main():
            with atomic_file(self._beside) as file:
                file.write("".join(map(_slope_line, self.slopes.items())).encode())

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".slopes.jsonl")

    @property
    def study(self) -> Path | None:
        """Where Optuna keeps its study; None, in memory, in a process that does not write."""
        return self.path.with_name("optuna.log") if is_main() else None

    def score(self, trial: Trial, score: Callable[[], float]) -> float:
        """The logged score of this trial, or a new one, logged."""
        told = agreed([*trial.weights, trial in self.scores])
        if told != [*trial.weights, trial in self.scores]:
            raise InputError(f"processes of one search have come to different weights, {trial.weights} and {told[:-1]}")
        if trial not in self.scores:
            if not self.path.is_file():
                self._write(self.path, {})
            if not self._together(trial):
                self._add(trial, *agreed([float(score())]))
        self.used[trial] = self.scores[trial]
        return self.used[trial]

    def expect(self, trials: Iterable[Trial], apart: Callable[[Trial], float]) -> None:
        """Know which trials will be asked for next, in this order and whatever their scores.

        Args:
            apart: the score of one, by this process alone.
        """
        self.coming, self.apart = [one for one in dict.fromkeys(trials) if one not in self.scores], apart

    def _together(self, trial: Trial) -> bool:
        """Where it was expected and there are others for the other processes: each scores one, and all are logged."""
        count = partial_state().num_processes
        first = self.coming.index(trial) if trial in self.coming else len(self.coming)
        part = self.coming[first : first + count]
        if not 1 < count == len(part):
            return False
        from accelerate.utils import gather

        score = float(self.apart(part[partial_state().process_index]))
        found: torch.Tensor = gather(torch.tensor([score], dtype=torch.float64, device=partial_state().device))
        for one, value in zip(part, found.tolist(), strict=True):
            self._add(one, value)
        return True

    def _add(self, trial: Trial, score: float) -> None:
        self.scores[trial] = score
        self._append(self._line(trial, score))

    def slope(self, trial: Trial, slope: Callable[[], tuple[float, list[float]]]) -> tuple[float, list[float]]:
        """The logged score and slope of this trial, or new ones, logged."""
        if (key := self._line(trial, 0.0)) not in self.slopes:
            value, found = slope()
            value, *found = agreed([value, *found])
            self.slopes[key] = value, found
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(_slope_line((key, self.slopes[key])), self._beside)
        return self.slopes[key]

    def export(self, path: Path) -> None:
        """Write the trials of this search alone: a log that went on may hold others."""
        self._write(path, self.used)

    def _append(self, line: str, path: Path | None = None) -> None:
        if is_main():
            with (path or self.path).open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def _write(self, path: Path, scores: dict[Trial, float]) -> None:
        if not is_main():
            return
        with atomic_file(path) as file:
            file.write("".join([",".join(self.header) + "\n", *itertools.starmap(self._line, scores.items())]).encode())

    @staticmethod
    def _line(trial: Trial, score: float) -> str:
        numbers = map(repr, (*trial.weights, score))
        return ",".join([trial.round_name, str(trial.first), str(trial.images), *numbers]) + "\n"


def _slope_line(entry: tuple[str, tuple[float, list[float]]]) -> str:
    key, (value, slope) = entry
    return json.dumps([key, value, slope]) + "\n"
