"""The search for merge weights w: many candidates on few images, then the best few again on fresh seeds.

Scores are noisy: the best of many trials is best partly by luck of its noise. The first round therefore only
nominates; the second round, on other seeds and more images, decides, with the uniform weights and w = 0 among
the candidates, and w = 0 wins ties.
"""

import csv
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from deme_core.errors import InputError
from deme_core.merging.settings import SearchParams
from deme_core.seeds import SeedBlock

Weights = tuple[float, ...]
Score = Callable[[Weights], float]
ROUNDS = {"search": SeedBlock.SEARCH, "confirm": SeedBlock.CONFIRM}


@dataclass(frozen=True)
class Trial:
    """One row of trials.csv: the score of w on `images` images of a round's seed block."""

    round: str
    images: int
    weights: Weights
    score: float


class TrialLog:
    """trials.csv: every trial is on disk as it ends, and none is run twice."""

    def __init__(self, path: Path, N: int) -> None:
        self.path, self.header = path, ["round", "images", *(f"w{i}" for i in range(1, N + 1)), "score"]
        self.trials: list[Trial] = []
        self.used: list[Trial] = []
        if path.is_file():
            # A line cut short by a kill is the last one, and is dropped.
            rows = [row for row in csv.reader(path.read_text().splitlines(keepends=True)) if row]
            whole = path.read_text().endswith("\n")
            for row in rows[1:] if whole else rows[1:-1]:
                self.trials.append(Trial(row[0], int(row[1]), tuple(map(float, row[2:-1])), float(row[-1])))
        self._write([self.header, *map(self._row, self.trials)], "w")

    def score(self, round: str, images: int, weights: Weights, score: Callable[[], float]) -> float:
        """The logged score of this trial, or a new one, logged."""
        for trial in self.trials:
            if (trial.round, trial.images, trial.weights) == (round, images, weights):
                self.used.append(trial)
                return trial.score
        self.trials.append(Trial(round, images, weights, score()))
        self._write([self._row(self.trials[-1])], "a")
        self.used.append(self.trials[-1])
        return self.trials[-1].score

    def export(self, path: Path) -> None:
        """Write the trials of this search alone: a log that went on may hold those of other settings."""
        TrialLog._write_rows(path, [self.header, *map(self._row, dict.fromkeys(self.used))], "w")

    def _row(self, trial: Trial) -> list[Any]:
        return [trial.round, trial.images, *map(repr, trial.weights), repr(trial.score)]

    def _write(self, rows: list[list[Any]], mode: str) -> None:
        self._write_rows(self.path, rows, mode)

    @staticmethod
    def _write_rows(path: Path, rows: list[list[Any]], mode: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())


def anchors(N: int) -> list[Weights]:
    """w = 0 (the pretrained model) and the uniform weights 1/N."""
    return [(0.0,) * N, (1 / N,) * N]


def grid_candidates(N: int, params: SearchParams) -> list[Weights]:
    """The paper's grid (Sec. 3.3): values^N, with the anchors."""
    return list(dict.fromkeys([*anchors(N), *itertools.product(params.values, repeat=N)]))


def grid(score: Score, N: int, params: SearchParams) -> None:
    """Score every point of the grid."""
    candidates = grid_candidates(N, params)
    for weights in candidates:
        score(weights)


def coordinate(score: Score, N: int, params: SearchParams) -> None:
    """Coordinate descent from the better anchor: one weight at a time over the values, until nothing improves."""
    seen: dict[Weights, float] = {}

    def try_(weights: Weights) -> float:
        if weights not in seen:
            if len(seen) >= params.max_trials:
                raise _BudgetSpent
            seen[weights] = score(weights)
        return seen[weights]

    try:
        best = min(anchors(N), key=try_)
        for i in itertools.cycle(range(N)):
            if i == 0:
                start = best
            best = min([best, *((*best[:i], v, *best[i + 1 :]) for v in params.values)], key=try_)
            if i == N - 1 and best == start:
                return
    except _BudgetSpent:
        return


class _BudgetSpent(Exception):
    pass


METHODS: dict[str, Callable[[Score, int, SearchParams], None]] = {"grid": grid, "coordinate": coordinate}


def method_of(N: int, params: SearchParams) -> str:
    """The row of METHODS that a run uses; refuses a grid that is larger than the budget."""
    method = params.method if params.method != "auto" else ("grid" if N <= 4 else "coordinate")
    if method == "grid":
        points = len(grid_candidates(N, params))
        if points > params.max_trials:
            raise InputError(
                f"params: merge_search.values = {list(params.values)}: the grid over N = {N} weights has {points}"
                f" points, max_trials is {params.max_trials}; name fewer values or use merge_search.method=coordinate"
            )
    return method


def search(
    objective: Callable[[Sequence[float], SeedBlock, int], float],
    N: int,
    params: SearchParams,
    log: TrialLog,
) -> dict[str, Any]:
    """Find w; lower scores are better.

    Returns:
        weights, their score on both rounds, the gap between them (how much of the first score was luck), and the
        scores of w = 0 and of the uniform weights on the confirming round.
    """

    def scorer(round: str, images: int) -> Score:
        return lambda w: log.score(round, images, w, lambda: objective(w, ROUNDS[round], images))

    method = method_of(N, params)
    points = len(grid_candidates(N, params)) if method == "grid" else params.max_trials
    bar = tqdm(total=points, desc=f"{method} search", unit="trial")
    first, confirm = scorer("search", params.images), scorer("confirm", params.final_images)
    tried: dict[Weights, float] = {}

    def record(weights: Weights) -> float:
        tried[weights] = first(weights)
        bar.update()
        bar.set_postfix(best=f"{min(tried.values()):.3f}")
        return tried[weights]

    METHODS[method](record, N, params)
    nominated = sorted(tried, key=lambda w: tried[w])[: params.finalists]
    finalists = list(dict.fromkeys([*anchors(N), *nominated]))  # w = 0 stands first and wins ties
    bar.close()
    final = {weights: confirm(weights) for weights in tqdm(finalists, desc="finalists", unit="trial")}
    winner = min(finalists, key=lambda w: final[w])
    zero, uniform = anchors(N)
    return {
        "method": method,
        "weights": list(winner),
        "search_score": tried[winner],
        "confirm_score": final[winner],
        "gap": final[winner] - tried[winner],
        "confirm_score_pretrained": final[zero],
        "confirm_score_uniform": final[uniform],
        "trials": len(tried),
        "images_sampled": len(tried) * params.images + len(finalists) * params.final_images,
    }
