"""What cannot be searched, said before time is spent."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deme_core.errors import InputError
from deme_core.metrics.features import feature_count, read_config
from deme_core.metrics.networks import NETWORKS
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import check
from deme_core.prompts.settings import PromptParams
from deme_core.search.first_round import SLOPE_COST
from deme_core.search.fitted import surrogate_trials
from deme_core.search.kinds import searched
from deme_core.search.methods import METHODS, grid_count
from deme_core.search.objective import LOSS, score_weights
from deme_core.search.settings import SearchParams
from deme_core.search.slope import check_images
from deme_core.search.spaces import anchors

WHOLE = ("auto", "grid", "surrogate")  # methods whose trials grow faster than the number of weights


def check_search(
    N: int,
    params: SearchParams,
    kinds: Sequence[str] = (),
    *,
    texts: bool = False,
    sets: Mapping[str, PromptParams] | None = None,
) -> None:
    """Refuse what cannot be searched with these params over N weights, by these kinds too.

    Args:
        kinds: words as the stage takes them, several for a search over several directions at once.
        texts: whether images have prompts.
        sets: the prompt sets that there are, where they are known.
    """
    known, scores = ("auto", *METHODS), score_weights(params.objective).keys()
    fixed = params.fixed or (None,) * N
    free = max(1, fixed.count(None))
    points, least = grid_count(free, params, anchors(free, N)), surrogate_trials(free)
    needed = {"grid": points * params.images, "surrogate": least * params.images}
    enough = {method: params.method != method or params.budget >= images for method, images in needed.items()}
    slope = SLOPE_COST * params.images
    few = [method for method in METHODS if method not in WHOLE]
    there = params.prompts if sets is None else tuple(sets)
    odd = [name for name in params.prompts if name not in there]
    seen = [name for name in params.prompts if sets and name in sets and sets[name].source == "heldout"]
    rules = (
        (params.method in known, "method", f"must be one of {', '.join(known)}"),
        (
            texts or "clip_score" not in scores, "objective",
            "the CLIP score is one of images with prompts; take frechet or kid for a model that is no text-to-image"
            " pipeline",
        ),
        (texts or not params.prompts, "prompts", "only images of a text-to-image pipeline have prompts; take []"),
        (not odd, "prompts", f"{odd} is no set of `prompts`; there are {', '.join(there) or 'none'}"),
        (
            not seen, "prompts",
            f"{seen} has captions of the held-out part, which no search may see; take a set of another source",
        ),
        (
            not params.extractors or scores - {"clip_score"} == {"frechet"}, "extractors",
            f"several extractors share Fréchet distances alone, and the objective is {params.objective!r}; take"
            " merge_search.objective=frechet, or []",
        ),
        (
            len(fixed) == N and None in fixed, "fixed",
            f"needs N = {N} entries, at least one of them null (a weight to search)",
        ),
        (
            params.bounds[1] >= 1 / N, "bounds",
            f"must admit the uniform weights 1/{N}, which are a candidate of every search; raise the highest weight",
        ),
        (
            not params.per_block or params.method not in WHOLE, "method",
            f"too many points for the weights of every block; with per_block take one of {', '.join(few)}",
        ),
        (
            params.method != "gradient" or params.objective in ("frechet", LOSS), "objective",
            f"the method gradient follows frechet, or {LOSS}; take one of these, or another merge_search.method",
        ),
        (
            params.method != "gradient" or params.objective == LOSS or not texts, "method",
            "a gradient through the decoder of latents is not there; take another, or merge_search.objective=loss",
        ),
        (
            params.method != "gradient" or params.objective == LOSS or params.budget >= slope, "budget",
            f"a gradient costs {SLOPE_COST} × {params.images} images; set merge_search.budget={slope} or more",
        ),
        (
            enough["grid"], "budget",
            f"the grid over {free} weights has {points} points of {params.images} images each; name fewer values, or"
            f" set merge_search.budget={needed['grid']}",
        ),
        (
            enough["surrogate"], "budget",
            f"the surrogate of {free} weights needs {least} trials of {params.images} images; set"
            f" merge_search.budget={needed['surrogate']} or more, or merge_search.method=coordinate",
        ),
    )  # fmt: skip
    for holds, key, rule in rules:
        value = getattr(params, key)
        check(holds, f"merge_search.{key}", list(value) if isinstance(value, tuple) else value, rule)
    for kind in kinds:
        searched(lines := kind.split(), params, [N] * len(lines))


def check_extractors(folders: Sequence[str], reference: str, judges: JudgeParams) -> None:
    """Refuse extractors of a search that would count twice, or judge afterwards what they have chosen."""
    group, development = Path(judges.folder).resolve(), Path(judges.development).resolve()
    seen: set[Path] = set()
    for key, name in (("reference.extractor", reference), *(("merge_search.extractors", name) for name in folders)):
        folder = Path(name).resolve()
        if folder in seen:
            raise InputError(
                f"params: {key}: {name!r} counts already; each stands once, and reference.extractor = {reference!r} is"
                " always among them"
            )
        seen.add(folder)
        other = folder.parent != development and folder.parent.parent == development.parent
        if folder.parent == group or other:
            raise InputError(
                f"params: {key}: {name!r} is a judge, and no search may see what judges its result; take some of"
                f" {judges.development}, and judges.folder another group"
            )
        if name in folders:  # `make check` tells of the other one
            read_config(folder)


def check_slope(params: SearchParams, extractor: str) -> None:
    """Refuse the gradient of a distance by extractors whose images go through more than the network, or by too few
    images.

    Args:
        extractor: the reference's.
    """
    if params.method != "gradient" or params.objective == LOSS:
        return
    folders = (extractor, *params.extractors)
    for folder in folders:
        name = read_config(Path(folder))["_class_name"]
        check(
            name in (*NETWORKS, "Pixels"), "merge_search.method", params.method,
            f"has no slope through the images that extractor {folder!r} ({name}) resizes; take another method, or an"
            f" extractor of {', '.join((*NETWORKS, 'Pixels'))}",
        )  # fmt: skip
    check_images(params.images, [(folder, feature_count(folder) or 0) for folder in folders])
