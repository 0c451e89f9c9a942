"""The search for merge weights w: a first round nominates, a second one on fresh seeds decides.

Scores are noisy: the best of many trials is best partly by luck of its noise. The first round, by one of many methods,
therefore only nominates; the second round, on other seeds and more images, decides, with the uniform weights and w = 0
among the candidates. The best of them is taken only where it beats w = 0 beyond the noise, by the paired interval over
seed blocks; everything else is a tie, and w = 0 wins ties.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from deme_core.errors import InputError
from deme_core.merging.first_round import FirstRound, anchors
from deme_core.merging.lines import LINES
from deme_core.merging.objective import MergedLoss, Objective, score_weights
from deme_core.merging.search_methods import METHODS, grid_count, nominate, scale_points, surrogate_trials
from deme_core.merging.settings import SearchParams
from deme_core.merging.trials import Trial, TrialLog, Weights
from deme_core.metrics.features import read_config
from deme_core.metrics.intervals import Interval, paired_interval
from deme_core.metrics.verdict import JudgeParams, percent
from deme_core.processes import agreed, is_main
from deme_core.prompts.settings import PromptParams
from deme_core.seeds import SeedBlock

WHOLE = ("auto", "grid", "surrogate")  # methods whose trials grow faster than the number of weights
ROUNDS = {"search": SeedBlock.SEARCH, "loss": SeedBlock.SEARCH, "confirm": SeedBlock.CONFIRM}


def search(
    objective: Objective, loss: MergedLoss, N: int, params: SearchParams, log: TrialLog, steps: int,
    blocks: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Find w; lower scores are better.

    Args:
        objective: f(w, seed block, first image, number of images).
        loss: of the methods that sample nothing.
        N: number of task vectors.
        steps: network calls an image, the price of a sampled image in forward images.
        blocks: blocks of the network that have N weights each; none: N weights that all share.

    Returns:
        weights, block after block; the blocks; what the first round said of the weights, as a change against w = 0 on
        the same seeds (None where it sampled nothing) and as a score; the same on the confirming seeds; the gap, how
        much of the first change was luck; the confirming scores of w = 0 and of the uniform weights; the best finalist
        and its paired change against w = 0 over the confirming blocks.
    """

    def score(round: str, f: Objective, first: int, images: int, w: Weights) -> float:
        return log.score(Trial(round, first, images, w), lambda: f(w, ROUNDS[round], first, images))

    def logged_gradient(w: Weights, first: int) -> tuple[float, list[float]]:
        value, slope = loss.gradient(w, ROUNDS["loss"], first, n)
        return log.score(Trial("loss", first, n, w), lambda: value), agreed(slope)

    n = params.images
    if params.method == "auto":
        params = replace(params, method=auto_method(N, params))
    round = FirstRound(
        N, params,
        score=lambda w, k: score("search", objective, k * n, n, w),
        loss=lambda w, k: score("loss", loss.value, k * n, n, w),
        gradient=lambda w, k: logged_gradient(w, k * n),
        steps=steps, groups=max(1, len(blocks)), study=log.study,
    )  # fmt: skip
    nominated = nominate(round)
    uniform = round.full(round.anchors()[1])  # what is fixed stays so, but in w = 0: θ itself
    zero = (0.0,) * len(uniform)
    said = dict(nominated[: params.finalists])
    finalists = list(dict.fromkeys([zero, uniform, *said]))  # zero stands first and wins ties
    size = params.final_images // params.final_blocks
    final = {
        w: [score("confirm", objective, k * size, size, w) for k in range(params.final_blocks)]
        for w in tqdm(finalists, desc="finalists", unit="trial", disable=not is_main())
    }
    mean = {w: float(np.mean(scores)) for w, scores in final.items()}
    changes = {w: confirmed(scores, final[zero], params.objective) for w, scores in final.items()}
    best = min(finalists, key=lambda w: changes[w].value)
    change = changes[best]
    winner = best if change.high < 0 else zero
    first = 0.0 if winner == zero else None
    if any(winner) and round.full(round.anchors()[0]) == zero:  # else no change of the first round is against w = 0
        first = said.get(winner, round.change([winner[i] for i in round.free]))
    base = [value for (w, _), value in round.tried.items() if w == zero]
    return {
        "method": params.method,
        "objective": params.objective,
        "prompts": list(params.prompts),
        **({"extractors": list(params.extractors)} if params.extractors else {}),
        "weights": list(winner),
        "blocks": list(blocks),
        "search_change": first,
        "search_score": None if first is None or not base else float(np.mean(base)) + first,
        "confirm_change": mean[winner] - mean[zero],
        "confirm_score": mean[winner],
        "gap": None if first is None else mean[winner] - mean[zero] - first,
        "confirm_score_pretrained": mean[zero],
        "confirm_score_uniform": mean[uniform],
        "best": list(best),
        "best_change_unit": "%" if relative(params.objective) else "",
        **change.named("best_change"),
        "trials": round.count,
        "images_sampled": round.spent + len(finalists) * params.final_images * round.price,
    }


def relative(objective: str) -> bool:
    """Whether a change is a ratio: of distances and losses, which are 0 where nothing is wrong.

    A KID may lie below 0, and 100 − the CLIP score is 0 for no image: their changes are differences.
    """
    return not {"kid", "clip_score"} & score_weights(objective).keys()


def confirmed(scores: Sequence[float], zero: Sequence[float], objective: str) -> Interval:
    """The change against w = 0, paired over the confirming blocks: of the score, or in percent of it where `relative`.

    The distance of the base differs between blocks by more than finalists do; a ratio on the same noise does not.

    Raises:
        InputError: a score that has no ratio.
    """
    if not relative(objective):
        return paired_interval(scores, zero)
    if not (lowest := min(*scores, *zero)) > 0:
        raise InputError(
            f"merge_search: a confirming score is {lowest:g}, and a change is a ratio of scores above 0: the extractor"
            " does not tell these images from the data; take another reference.extractor, or merge_search.objective=kid"
        )
    return percent(paired_interval(np.log(scores), np.log(zero)))


def check_search(
    N: int,
    params: SearchParams,
    kinds: Sequence[str] = (),
    *,
    texts: bool = False,
    sets: Mapping[str, PromptParams] | None = None,
) -> None:
    """Refuse what cannot be searched with these params over N weights, by these kinds too, before time is spent.

    Args:
        texts: whether images have prompts.
        sets: the prompt sets that there are, where they are known.
    """
    if params.method not in (known := ("auto", *METHODS)):
        raise InputError(f"params: merge_search.method = {params.method!r}: must be one of {', '.join(known)}")
    if "clip_score" in score_weights(params.objective) and not texts:
        raise InputError(
            f"params: merge_search.objective = {params.objective!r}: the CLIP score is one of images with prompts; take"
            " frechet or kid for a model that is no text-to-image pipeline"
        )
    if params.prompts and not texts:
        raise InputError(
            f"params: merge_search.prompts = {list(params.prompts)}: only images of a text-to-image pipeline have"
            " prompts; take []"
        )
    for name in params.prompts:
        if sets is not None and name not in sets:
            there = ", ".join(sets) or "none"
            raise InputError(f"params: merge_search.prompts: {name!r} is no set of `prompts`; there are {there}")
        if sets is not None and sets[name].source == "heldout":
            raise InputError(
                f"params: merge_search.prompts: {name!r} has captions of the held-out part, which no search may see;"
                " take a set of another source"
            )
    if params.extractors and score_weights(params.objective).keys() - {"clip_score"} != {"frechet"}:
        raise InputError(
            f"params: merge_search.extractors = {list(params.extractors)}: several extractors share Fréchet distances"
            f" alone, and the objective is {params.objective!r}; take merge_search.objective=frechet, or []"
        )
    if params.fixed is not None and (len(params.fixed) != N or None not in params.fixed):
        raise InputError(
            f"params: merge_search.fixed = {list(params.fixed)}: needs N = {N} entries, at least one of them null (a"
            " weight to search)"
        )
    free = N if params.fixed is None else params.fixed.count(None)
    if params.bounds[1] < 1 / N:
        raise InputError(
            f"params: merge_search.bounds = {list(params.bounds)}: must admit the uniform weights 1/{N}, which are a"
            " candidate of every search; raise the highest weight"
        )
    if params.per_block and params.method in WHOLE:
        raise InputError(
            f"params: merge_search.method = {params.method!r}: too many points for the weights of every block; with"
            f" per_block take one of {', '.join(method for method in METHODS if method not in WHOLE)}"
        )
    points = grid_count(free, params, anchors(free, N))
    if params.method == "grid" and points * params.images > params.budget:
        raise InputError(
            f"params: merge_search.budget = {params.budget}: the grid over {free} weights has {points} points of"
            f" {params.images} images each; name fewer values, or set merge_search.budget={points * params.images}"
        )
    needed = surrogate_trials(free) * params.images
    if params.method == "surrogate" and params.budget < needed:
        raise InputError(
            f"params: merge_search.budget = {params.budget}: the surrogate of {free} weights needs"
            f" {surrogate_trials(free)} trials of {params.images} images; set merge_search.budget={needed} or more, or"
            " merge_search.method=coordinate"
        )
    for kind in kinds:
        KINDS[kind](params, N)


def check_extractors(folders: Sequence[str], reference: str, judges: JudgeParams) -> None:
    """Refuse extractors of a search that would count twice, or judge afterwards what they have chosen."""
    group, development = Path(judges.folder).resolve(), Path(judges.development).resolve()
    seen = {Path(reference).resolve()}
    for name in folders:
        folder = Path(name).resolve()
        if folder in seen:
            raise InputError(
                f"params: merge_search.extractors: {name!r} counts already; each stands once, and reference.extractor"
                f" = {reference!r} is always among them"
            )
        seen.add(folder)
        other = folder.parent != development and folder.parent.parent == development.parent
        if folder.parent == group or other:
            raise InputError(
                f"params: merge_search.extractors: {name!r} is a judge, and no search may see what judges its result;"
                f" take some of {judges.development}, and judges.folder another group"
            )
        read_config(folder)


def auto_method(N: int, params: SearchParams) -> str:
    """What `auto` stands for: the surrogate where the budget fixes its quadratic, else coordinate descent."""
    free = N if params.fixed is None else params.fixed.count(None)
    return "surrogate" if params.budget >= surrogate_trials(free) * params.images else "coordinate"


def nonnegative(params: SearchParams, N: int) -> SearchParams:
    """DeMe's search with w >= 0."""
    if min((w for w in params.fixed or () if w is not None), default=0.0) < 0:
        raise InputError(
            f"params: merge_search.fixed = {list(params.fixed or ())}: a weight below 0 leaves no search over w >= 0;"
            " take loss_equivalent out of `rivals`, or free the weight"
        )
    values = tuple(value for value in params.values if value >= 0) or (0.0,)
    return replace(params, bounds=(0.0, params.bounds[1]), values=values, per_block=False)


def line(kind: str, params: SearchParams, N: int) -> SearchParams:
    """The search for one weight of N vectors: a rival's scale, the length of a step."""
    points = replace(params, scales=LINES[kind].values(params))
    return _rival(points, kind, len(scale_points(N, points, anchors(N, N, kind))))


def greedy(params: SearchParams, N: int) -> SearchParams:
    """The greedy soup's search among N vectors."""
    return _rival(params, "greedy", 2 * N + 1)


KINDS: dict[str, Callable[[SearchParams, int], SearchParams]] = {
    "deme": lambda params, N: params, "nonnegative": nonnegative, "greedy": greedy,
    **{kind: partial(line, kind) for kind in LINES},
}  # fmt: skip


def _rival(params: SearchParams, method: str, points: int) -> SearchParams:
    """DeMe's budget on these points: images a point are rounded up to whole trials, in the rival's favour."""
    images = -(-params.budget // (points * params.images)) * params.images
    return replace(params, method=method, fixed=None, per_block=False, images=images, budget=points * images)
