"""Whose weights a search finds: DeMe's, DeMe's with w >= 0, one weight along a line or several, a greedy soup's."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from deme_core.errors import InputError
from deme_core.search.fitted import surrogate_trials
from deme_core.search.lines import LINES
from deme_core.search.methods import scale_points
from deme_core.search.settings import SearchParams
from deme_core.search.spaces import Space, Steps, anchors


def nonnegative(params: SearchParams, N: int) -> SearchParams:
    """DeMe's search with w >= 0."""
    if min((w for w in params.fixed or () if w is not None), default=0.0) < 0:
        raise InputError(
            f"params: merge_search.fixed = {list(params.fixed or ())}: a weight below 0 leaves no search over w >= 0;"
            " take loss_equivalent out of `baselines`, or free the weight"
        )
    values = tuple(value for value in params.values if value >= 0) or (0.0,)
    return replace(params, bounds=(0.0, params.bounds[1]), values=values, per_block=False)


def line(kind: str, params: SearchParams, N: int) -> SearchParams:
    """The search for one weight of N vectors: a baseline's scale, the length of a step."""
    points = replace(params, scales=LINES[kind].values(params))
    return on_points(points, kind, len(scale_points(N, points, anchors(N, N, kind))))


def greedy(params: SearchParams, N: int) -> SearchParams:
    """The greedy soup's search among N vectors."""
    return on_points(params, "greedy", 2 * N + 1)


def on_points(params: SearchParams, method: str, points: int) -> SearchParams:
    """DeMe's budget on so many points: images a point are rounded up to whole trials, which favours who is compared."""
    images = -(-params.budget // (points * params.images)) * params.images
    return replace(params, method=method, fixed=None, per_block=False, images=images, budget=points * images)


KINDS: dict[str, Callable[[SearchParams, int], SearchParams]] = {
    "deme": lambda params, N: params, "nonnegative": nonnegative, "greedy": greedy,
    **{kind: partial(line, kind) for kind in LINES},
}  # fmt: skip


def searched(kinds: Sequence[str], params: SearchParams, sizes: Sequence[int]) -> tuple[SearchParams, Space | None]:
    """What is asked of a search, and what it moves; None: every weight for itself.

    Args:
        kinds: a row of KINDS; or several lines, one a source of task vectors: one search over all of them.
        params: DeMe's.
        sizes: numbers of task vectors, one a source.

    Raises:
        InputError: the budget does not fix a quadratic in so many steps.
    """
    if len(kinds) == 1:
        return KINDS[kinds[0]](params, sizes[0]), None
    least = surrogate_trials(len(kinds)) * params.images
    if params.budget < least:
        raise InputError(
            f"params: merge_search.budget = {params.budget}: the quadratic of {len(kinds)} steps at once needs"
            f" {least // params.images} trials of {params.images} images; set merge_search.budget={least} or more, or"
            " take joint out of `directions`"
        )
    # As many finalists as another search has, with the own step of each direction among them; the split is one.
    finalists = max(2, params.finalists - (len(kinds) - 1))
    params = replace(params, method="joint", per_block=False, finalists=finalists)
    return params, Steps.of(kinds, sizes, params)
