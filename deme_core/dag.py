"""What dvc.yaml makes stages of, for N ranges and a list of baselines: the derived section `dag` of params.yaml.

The baselines (Table 1 of the paper, and the controls that it lacks) are what DeMe is compared with, each from the same
pretrained model:

- `full_range`: one finetune of all timesteps with the plain loss, for as many steps as all experts together;
- `snr_plus_one`, `truncated_snr`, `min_snr`: the same with a reweighted loss (Eq. 12-14);
- `soup_full_range`: N full-range finetunes that differ in their seed, as long as one expert each, averaged. What DeMe
  gains beyond it comes from the ranges and not from averaging;
- `loss_equivalent`: one finetune with the reweighted loss that a merge amounts to, to first order (Appendix A.2). A
  loss cannot be negative: with it comes `merged_nonnegative`, DeMe with a search of its own over w >= 0;
- `soup_greedy`: the greedy soup (Wortsman et al. 2022, "Model soups") of the experts.

A finetuned baseline stands in the tables as trained, and as `name+scale` with the scale of its task vector searched.

Task vectors come from `directions`: `range` are the paper's experts on real data. Each further one adds a model that a
search of one step along it makes (`FURTHER`): `self` away from what a finetune on the model's own samples learned
(Neon, arXiv 2510.03597), `early` away from an earlier checkpoint of the model's training, `scale` a factor on its ε
(arXiv 2308.15321). `self` adds a second model, `away`: the same step at the length that the section of that name sets,
with no search. `joint` is no source of vectors: it adds the model that one search over all of them makes.

Two baselines need no training. `random1`, `random2`, … are the null: vectors of the experts' norms, tensor by tensor,
with DeMe's search. `matched` is the pretrained model's images, each channel's mean and deviation set to the data's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deme_core.analyses import analyses as analyses_of
from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING

SOUP_GREEDY, LOSS_EQUIVALENT, SOUP_FULL_RANGE = "soup_greedy", "loss_equivalent", "soup_full_range"
BASELINES = (
    "full_range", "snr_plus_one", "truncated_snr", "min_snr", SOUP_FULL_RANGE, SOUP_GREEDY, LOSS_EQUIVALENT,
)  # fmt: skip
DEME = ("ensemble", "merged_uniform", "merged")
NONNEGATIVE, MATCHED, RANDOM, NEON, AWAY = "merged_nonnegative", "matched", "random", "neon", "away"
PROMPT_PAGE = "reports/prompts"
FIGURES = "analyses"  # the part that says which figures of the paper are made
OWN = ("pretrained", *DEME, NONNEGATIVE)  # no baselines


class Direction(NamedTuple):
    """A source of task vectors beside the experts."""

    model: str
    """What the search of one step along them makes: its row in every table."""
    kind: str
    """Of that search, which has its sign and its lengths: a row of `deme_core.search.lines.LINES`."""
    vectors: str
    """Folder of the task vectors."""
    passed: str | None
    """The mark of the gate of their training; None: nothing is trained, the stage direction@NAME makes them of θ."""


RANGE, SELF, EARLY, SCALE, JOINT = "range", "self", "early", "scale", "joint"
FURTHER = {
    SELF: Direction(NEON, "away", "models/own", "models/own.passed"),
    EARLY: Direction("early", "early", "models/early", None),
    SCALE: Direction("scaled", "epsilon", "models/scale", None),
}
DIRECTIONS = (RANGE, *FURTHER, JOINT)
STEPS = (AWAY, *(direction.model for direction in FURTHER.values()), JOINT)


def is_random(model: str) -> bool:
    """Whether a model is a draw of the null."""
    return model.removeprefix(RANDOM).isdigit()


def is_baseline(model: str) -> bool:
    """Whether a model was trained or searched to be compared with DeMe."""
    return not (model in (*OWN, MATCHED, *STEPS) or is_random(model))


def dag(
    N: int, baselines: Sequence[str], references: Mapping[str, str | None] | None = None, draws: int = 1,
    directions: Sequence[str] = (RANGE,), analyses: Sequence[str] | str = (),
) -> dict[str, Any]:  # fmt: skip
    """The section `dag`.

    Args:
        directions: where task vectors come from, and whether one search goes over all of them, too.
        draws: of the null.
        references: every prompt set -> its `reference`.
        analyses: figures of the paper, or `all`.

    Returns:
        ranges: 1 … N.
        models: every model that is measured -> its path below samples/, features/, judged/ and scores/.
        sampled: those of them that are sampled -> the same path, below models/ as well.
        random: every draw of the null -> its number.
        untrained: the directions whose vectors the stage direction makes.
        own: whom samples of its own are made for: the pretrained model, or nobody.
        own_gate: what the gate measured on them; of a run without them what is there anyway.
        away: the path of the model that no search makes, as in `models`; of a run without it the pretrained model's.
        full_range: that baseline's denoisers, which the gate compares with; of a run without it what is there anyway.
        finetunes: every baseline that is trained -> what its training waits for beside data and base.
        searches: every model that a search beside DeMe's makes -> its `kind` (a row of `deme_core.search.kinds.KINDS`)
            and the folder of the `vectors` that it combines, for several directions at once words of a command; and
            the paths that it reads and waits for (`after`: the gate, where experts are in it). Of these there are as
            many as any search has, the first one repeated, since a template gives a dep, and never a list of them.
        prompted: every model on every prompt set, MODEL+SET -> both, the model's path, and the features of real images
            that evaluate_prompts reads (of a set without them what never changes).
        prompt_reports: what shows them -> its folder; none without prompt sets.
        prompt_page: that folder; without prompt sets what never changes.
        analyses: every figure of the paper that is made -> what it reads.

    Raises:
        InputError: a baseline or a direction is unknown or named twice.
    """
    for baseline in baselines:
        if baseline not in BASELINES:
            raise InputError(f"params: baselines: {baseline!r} is unknown; known are {', '.join(BASELINES)}")
    if len(set(baselines)) < len(baselines):
        raise InputError(f"params: baselines = {list(baselines)}: each stands once")
    check_directions(directions)
    own_samples = SELF in directions
    finetunes = {
        baseline: {"after": f"search/n{N}/{NONNEGATIVE}" if baseline == LOSS_EQUIVALENT else "data/examples"}
        for baseline in baselines
        if baseline != SOUP_GREEDY
    }
    vectors, gate = f"models/n{N}/vectors", f"models/n{N}/experts.passed"

    def one(kind: str, folder: str) -> dict[str, Any]:
        return _search([kind], [folder], [gate])

    searches = {}
    if LOSS_EQUIVALENT in baselines:
        searches[NONNEGATIVE] = one("nonnegative", vectors)
    merges = (*DEME, *searches)
    searches |= {f"{r}+scale": one("scale", f"models/n{N}/baselines/{r}") for r in finetunes}
    if SOUP_GREEDY in baselines:
        searches[SOUP_GREEDY] = one("greedy", vectors)
    random = {f"{RANDOM}{k}": k for k in range(1, draws + 1)}
    searches |= {name: one("deme", f"models/n{N}/random/{k}") for name, k in random.items()}
    asked = {name: direction for name, direction in FURTHER.items() if name in directions}
    searches |= {
        direction.model: _search([direction.kind], [direction.vectors], [direction.passed or direction.vectors])
        for direction in asked.values()
    }
    if JOINT in directions:
        kinds = ["scale", *(direction.kind for direction in asked.values())]
        folders = [direction.vectors for direction in asked.values()]
        passed = [direction.passed for direction in asked.values() if direction.passed]
        searches[JOINT] = _search(kinds, [vectors, *folders], [gate, *passed])
    sampled = {"pretrained": "pretrained"} | {m: f"n{N}/{m}" for m in [*merges, *finetunes, *searches]}
    sampled |= {AWAY: AWAY} if own_samples else {}
    sets = {name: reference or UNCHANGING for name, reference in (references or {}).items()}
    return {
        "ranges": list(range(1, N + 1)),
        "models": sampled | {MATCHED: MATCHED},
        "sampled": sampled,
        "random": random,
        "untrained": [name for name, direction in asked.items() if direction.passed is None],
        "own": ["pretrained"] if own_samples else [],
        "own_gate": "reports/own_experts.csv" if own_samples else "reports/experts.csv",
        "away": AWAY if own_samples else "pretrained",
        "full_range": f"models/n{N}/baselines/full_range" if "full_range" in finetunes else "data/examples",
        "finetunes": finetunes,
        "searches": searches,
        "prompted": {
            f"{model}+{name}": {"model": model, "path": path, "set": name, "reference": reference}
            for name, reference in sets.items()
            for model, path in sampled.items()
        },
        "prompt_reports": {"table2": PROMPT_PAGE} if sets else {},
        "prompt_page": PROMPT_PAGE if sets else UNCHANGING,
        FIGURES: analyses_of(N, analyses, directions),
    }


def _search(kinds: Sequence[str], vectors: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """A row of `searches`."""
    folders, marks = 1 + len(FURTHER), 1 + sum(direction.passed is not None for direction in FURTHER.values())
    return {
        "kind": " ".join(kinds),
        "vectors": " ".join(vectors),
        "read": [*vectors, *[vectors[0]] * (folders - len(vectors))],
        "after": [*after, *[after[0]] * (marks - len(after))],
    }


def check_directions(directions: Sequence[str]) -> None:
    """Refuse directions that are unknown, named twice, or without the paper's own."""
    for name in directions:
        if name not in DIRECTIONS:
            raise InputError(f"params: directions: {name!r} is unknown; known are {', '.join(DIRECTIONS)}")
    if len(set(directions)) < len(directions) or RANGE not in directions:
        raise InputError(
            f"params: directions = {list(directions)}: each stands once, and {RANGE} among them: it is what the others"
            " are compared with"
        )
    if JOINT in directions and not FURTHER.keys() & set(directions):
        raise InputError(
            f"params: directions = {list(directions)}: {JOINT} searches several at once, and there is only {RANGE}; add"
            f" {', '.join(FURTHER)}, or take {JOINT} out"
        )


def check_dag(
    section: Any, N: int, baselines: Sequence[str], references: Mapping[str, str | None] | None = None, draws: int = 1,
    directions: Sequence[str] = (RANGE,), analyses: Sequence[str] | str = (),
) -> None:  # fmt: skip
    """Refuse a section that belongs to other params: dvc.yaml would make stages of it."""
    expected, given = dag(N, baselines, references, draws, directions, analyses), section or {}
    changed = {key for key in given.keys() | expected.keys() if given.get(key) != expected.get(key)}
    if changed - {FIGURES}:
        raise InputError(
            f"params: dag is not that of N = {N}, baselines = {list(baselines)}, random_draws = {draws}, directions ="
            f" {list(directions)}; it is derived: set these with `dvc exp run -S N=… -S baselines=…`, which composes"
            " params.yaml anew"
        )
    if changed:
        asked = analyses if isinstance(analyses, str) else list(analyses)
        raise InputError(
            f"params: dag.{FIGURES} is not that of {FIGURES} = {asked}; it is derived: set them with `dvc exp run -S"
            f" {FIGURES}=…`, which composes params.yaml anew"
        )
