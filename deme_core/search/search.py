"""The search for merge weights w: a first round nominates, a second one on fresh seeds decides.

Scores are noisy: the best of many trials is best partly by luck of its noise. The first round, by one of many methods,
therefore only nominates; the second round, on other seeds and more images, decides, with the uniform weights and w = 0
among the candidates. The best of them is taken only where it beats w = 0 beyond the noise, by the paired interval over
seed blocks; everything else is a tie, and w = 0 wins ties.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deme_core.processes import agreed, is_main
from deme_core.progress import progress
from deme_core.search.confirmed import confirmed
from deme_core.search.first_round import FirstRound
from deme_core.search.fitted import surrogate_trials
from deme_core.search.methods import nominate
from deme_core.search.objective import LOSS, MergedLoss, Objective, Slope, relative
from deme_core.search.result import SearchResult
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import Space
from deme_core.search.trials import Trial, TrialLog, Weights
from deme_core.seeds import SeedBlock

ROUNDS = {name: SeedBlock.SEARCH for name in ("search", "slope", "loss")} | {"confirm": SeedBlock.CONFIRM}


def search(
    objective: Objective, loss: MergedLoss, N: int, params: SearchParams, log: TrialLog, steps: int,
    blocks: Sequence[str] = (), space: Space | None = None, slope: Slope | None = None,
    apart: Objective | None = None,
) -> SearchResult:  # fmt: skip
    """Find w; lower scores are better.

    Args:
        objective: f(w, seed block, first image, number of images).
        loss: of the methods that sample nothing.
        N: number of task vectors.
        steps: network calls an image, the price of a sampled image in forward images.
        blocks: blocks of the network that have N weights each; none: N weights that all share.
        space: what the first round moves; None: every weight that params do not fix for itself.
        slope: the objective and its gradient over w, called as it is; of the method `gradient` on images.
        apart: the objective by one process alone: several then score trials that do not need each other side by side.
    """

    def score(round_name: str, f: Objective, first: int, images: int, w: Weights) -> float:
        return log.score(Trial(round_name, first, images, w), lambda: f(w, ROUNDS[round_name], first, images))

    def expect(trials: list[Trial]) -> None:
        if apart is not None:
            log.expect(trials, lambda one: apart(one.weights, ROUNDS[one.round_name], one.first, one.images))

    def sampled_slope(w: Weights, first: int) -> tuple[float, list[float]]:
        assert slope is not None, "the method `gradient` needs a slope"
        at = Trial("slope", first, n, w)
        value, found = log.slope(at, lambda: slope(w, ROUNDS["slope"], first, n))
        return log.score(at, lambda: value), found

    def logged_gradient(w: Weights, first: int) -> tuple[float, list[float]]:
        value, slope = loss.gradient(w, ROUNDS["loss"], first, n)
        return log.score(Trial("loss", first, n, w), lambda: value), agreed(slope)

    n = params.images
    if params.method == "auto":
        params = replace(params, method=auto_method(N, params))
    first_round = FirstRound(
        N, params,
        score=lambda w, k: score("search", objective, k * n, n, w),
        loss=lambda w, k: score("loss", loss.value, k * n, n, w),
        gradient=lambda w, k: (logged_gradient if params.objective == LOSS else sampled_slope)(w, k * n),
        steps=steps, groups=max(1, len(blocks)), study=log.study, space=space,
        expect=lambda coming: expect([Trial("search", k * n, n, w) for w, k in coming]),
    )  # fmt: skip
    nominated = nominate(first_round)
    # What is fixed stays so, but in w = 0: θ itself.
    uniform, *others = (first_round.full(w) for w in first_round.anchors()[1:])
    zero = (0.0,) * len(uniform)
    said = {found.weights: found for found in nominated[: params.finalists]}
    finalists = list(dict.fromkeys([zero, uniform, *others, *said]))  # zero stands first and wins ties
    size = params.final_images // params.final_blocks
    expect([Trial("confirm", k * size, size, w) for w in finalists for k in range(params.final_blocks)])
    final = {
        w: [score("confirm", objective, k * size, size, w) for k in range(params.final_blocks)]
        for w in progress(finalists, desc="finalists", unit="trial", disable=not is_main())
    }
    ratio = relative(params.objective)
    mean = {w: float(np.mean(scores)) for w, scores in final.items()}
    changes = {w: confirmed(scores, final[zero], ratio) for w, scores in final.items()}

    def told(w: Weights) -> bool:
        """Not of weights that fail to beat simpler ones beyond the noise, as the winner has to beat w = 0."""
        simpler = said[w].beside if w in said else None
        return simpler is None or confirmed(final[w], final[simpler], ratio).high < 0

    best = min(filter(told, finalists), key=lambda w: changes[w].value)
    change = changes[best]
    winner = best if change.high < 0 else zero
    first = 0.0 if winner == zero else None
    # Else no change of the first round is against w = 0.
    if any(winner) and first_round.full(first_round.anchors()[0]) == zero:
        first = said[winner].change if winner in said else first_round.change_of(winner)
    base = [value for (w, _), value in first_round.tried.items() if w == zero]
    return SearchResult(
        method=params.method,
        objective=params.objective,
        prompts=list(params.prompts),
        extractors=list(params.extractors),
        weights=list(winner),
        blocks=list(blocks),
        search_change=first,
        search_score=None if first is None or not base else float(np.mean(base)) + first,
        confirm_change=mean[winner] - mean[zero],
        confirm_score=mean[winner],
        gap=None if first is None else mean[winner] - mean[zero] - first,
        confirm_score_pretrained=mean[zero],
        uniform=list(uniform),
        confirm_score_uniform=mean[uniform],
        best=list(best),
        best_change_unit="%" if ratio else "",
        **change.named("best_change"),
        trials=first_round.count,
        images_sampled=first_round.spent + len(finalists) * params.final_images * first_round.price,
    )


def auto_method(N: int, params: SearchParams) -> str:
    """What `auto` stands for: the surrogate where the budget fixes its quadratic, else coordinate descent."""
    free = N if params.fixed is None else params.fixed.count(None)
    return "surrogate" if params.budget >= surrogate_trials(free) * params.images else "coordinate"
