"""The search for merge weights w: many candidates on few images, then the best few again on fresh seeds.

Scores are noisy: the best of many trials is best partly by luck of its noise. The first round therefore only
nominates; the second round, on other seeds and more images, decides, with the uniform weights and w = 0 among
the candidates. The best of them is taken only where it beats w = 0 beyond the noise, by the paired interval over
seed blocks; everything else is a tie, and w = 0 wins ties.
"""

import csv
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from deme_core.errors import InputError
from deme_core.merging.settings import SearchParams
from deme_core.metrics.intervals import paired_interval
from deme_core.seeds import SeedBlock
from deme_core.tensors import atomic_file

Weights = tuple[float, ...]
Score = Callable[[Weights], float]
ROUNDS = {"search": SeedBlock.SEARCH, "confirm": SeedBlock.CONFIRM}


class Trial(NamedTuple):
    """What a row of trials.csv scores: w on the images `first` to `first + images − 1` of a round's seeds."""

    round: str
    first: int
    images: int
    weights: Weights


class TrialLog:
    """trials.csv: every trial is on disk as it ends, and none is run twice."""

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
            self.scores[trial] = score()
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


def anchors(N: int) -> list[Weights]:
    """w = 0 (the pretrained model) and the uniform weights 1/N."""
    return [(0.0,) * N, (1 / N,) * N]


def grid_candidates(N: int, params: SearchParams) -> list[Weights]:
    """A grid (Sec. 3.3, which does not name its values): values^N, with the anchors."""
    return list(dict.fromkeys([*anchors(N), *itertools.product(params.values, repeat=N)]))


def grid(score: Score, N: int, params: SearchParams) -> None:
    """Score every point of the grid."""
    candidates = grid_candidates(N, params)
    for weights in candidates:
        score(weights)


def coordinate(score: Score, N: int, params: SearchParams) -> None:
    """Coordinate descent from the better anchor: one weight at a time over the values, until nothing improves."""
    try:
        best = min(anchors(N), key=score)
        for i in itertools.cycle(range(N)):
            if i == 0:
                start = best
            best = min([best, *((*best[:i], v, *best[i + 1 :]) for v in params.values)], key=score)
            if i == N - 1 and best == start:
                return
    except BudgetSpent:
        return


def scale_candidates(N: int, params: SearchParams) -> list[Weights]:
    """One weight for all vectors: a scale over N; 0 and 1 are the anchors."""
    return list(dict.fromkeys([*anchors(N), *((scale / N,) * N for scale in params.scales)]))


def scale(score: Score, N: int, params: SearchParams) -> None:
    """Score every scale of the vectors' mean."""
    for weights in scale_candidates(N, params):
        score(weights)


def greedy(score: Score, N: int, params: SearchParams) -> None:
    """Greedy soup (Wortsman et al. 2022): from the best model on, add the next best where the average gets better."""
    for weights in anchors(N):
        score(weights)
    alone = [tuple(float(i == k) for i in range(N)) for k in range(N)]
    first, *others = sorted(range(N), key=lambda k: score(alone[k]))
    soup = {first}
    for k in others:
        candidate = soup | {k}
        if score(_average(candidate, N)) < score(_average(soup, N)):
            soup = candidate


def _average(soup: set[int], N: int) -> Weights:
    return tuple(1 / len(soup) if k in soup else 0.0 for k in range(N))


class BudgetSpent(Exception):
    """The next trial would be one more than max_trials."""


METHODS: dict[str, Callable[[Score, int, SearchParams], None]] = {
    "grid": grid, "coordinate": coordinate, "scale": scale, "greedy": greedy,
}  # fmt: skip


def points_of(method: str, N: int, params: SearchParams) -> int:
    """How many weights a method scores in its first round, at most."""
    if method == "grid":
        return len(grid_candidates(N, params))
    if method == "scale":
        return len(scale_candidates(N, params))
    return 2 * N + 1 if method == "greedy" else params.max_trials


def rival_params(method: str, N: int, params: SearchParams, deme_N: int) -> SearchParams:
    """The settings of a rival's search, by `scale` or `greedy`: at least as many images as DeMe's, on other points.

    Images a point are rounded up to whole trials, in the rival's favour.

    Args:
        N: vectors of the rival.
        deme_N: vectors of DeMe's own search.
    """
    budget = points_of(method_of(deme_N, params), deme_N, params) * params.images
    each = -(-budget // points_of(method, N, params))
    return replace(params, images=-(-each // params.images) * params.images)


def method_of(N: int, params: SearchParams) -> str:
    """The row of METHODS that DeMe's own search uses; refuses a grid that is larger than the budget."""
    method = params.method if params.method != "auto" else ("grid" if N <= 4 else "coordinate")
    if method == "grid":
        points = points_of(method, N, params)
        if points > params.max_trials:
            raise InputError(
                f"params: merge_search.values = {list(params.values)}: the grid over N = {N} weights has {points}"
                f" points, max_trials is {params.max_trials}; name fewer values or use merge_search.method=coordinate"
            )
    return method


def search(
    objective: Callable[[Sequence[float], SeedBlock, int, int], float],
    N: int,
    params: SearchParams,
    log: TrialLog,
    method: str,
) -> dict[str, Any]:
    """Find w; lower scores are better.

    Args:
        objective: f(w, seed block, first image, number of images).
        method: a row of METHODS.

    Returns:
        weights; their score on the search seeds and their mean score on the confirming ones, with the gap (how much
        of the first score was luck and, for a biased score, smaller blocks); the confirming scores of w = 0 and of
        the uniform weights; the best finalist and its paired change against w = 0 over the confirming blocks.
    """

    def score(round: str, first: int, images: int, w: Weights) -> float:
        return log.score(Trial(round, first, images, w), lambda: objective(w, ROUNDS[round], first, images))

    most = points_of(method, N, params)
    bar = tqdm(total=most, desc=f"{method} search", unit="trial")
    tried: dict[Weights, float] = {}

    def record(weights: Weights) -> float:
        if weights not in tried:
            if len(tried) >= most:
                raise BudgetSpent
            tried[weights] = score("search", 0, params.images, weights)
            bar.update()
            bar.set_postfix(best=f"{min(tried.values()):.3f}")
        return tried[weights]

    METHODS[method](record, N, params)
    nominated = sorted(tried, key=lambda w: tried[w])[: params.finalists]
    finalists = list(dict.fromkeys([*anchors(N), *nominated]))  # w = 0 stands first and wins ties
    bar.close()
    size = params.final_images // params.final_blocks
    final = {
        w: [score("confirm", k * size, size, w) for k in range(params.final_blocks)]
        for w in tqdm(finalists, desc="finalists", unit="trial")
    }
    mean = {w: sum(scores) / len(scores) for w, scores in final.items()}
    zero, uniform = anchors(N)
    best = min(finalists, key=lambda w: mean[w])
    change = paired_interval(final[best], final[zero])
    winner = best if change.high < 0 else zero
    return {
        "method": method,
        "weights": list(winner),
        "search_score": tried[winner],
        "confirm_score": mean[winner],
        "gap": mean[winner] - tried[winner],
        "confirm_score_pretrained": mean[zero],
        "confirm_score_uniform": mean[uniform],
        "best": list(best),
        "best_change": change.value,
        "best_change_low": change.low,
        "best_change_high": change.high,
        "trials": len(tried),
        "images_sampled": len(tried) * params.images + len(finalists) * params.final_images,
    }
