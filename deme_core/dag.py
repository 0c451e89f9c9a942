"""What dvc.yaml makes stages of, for N ranges and a list of rivals: the derived section `dag` of params.yaml.

The rivals (Table 1 of the paper, and the controls that it lacks) are what DeMe is compared with, each from the same
pretrained model:

- `full_range`: one finetune of all timesteps with the plain loss, for as many steps as all experts together;
- `snr_plus_one`, `truncated_snr`, `min_snr`: the same with a reweighted loss (Eq. 12-14);
- `soup_full_range`: N full-range finetunes that differ in their seed, as long as one expert each, averaged. What DeMe
  gains beyond it comes from the ranges and not from averaging;
- `loss_equivalent`: one finetune with the reweighted loss that a merge amounts to, to first order (Appendix A.2). A
  loss cannot be negative: with it comes `merged_nonnegative`, DeMe with a search of its own over w >= 0;
- `soup_greedy`: the greedy soup (Wortsman et al. 2022, "Model soups") of the experts.

A finetuned rival stands in the tables as trained, and as `name+scale` with the scale of its task vector searched.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING

SOUP_GREEDY, LOSS_EQUIVALENT, SOUP_FULL_RANGE = "soup_greedy", "loss_equivalent", "soup_full_range"
RIVALS = (
    "full_range", "snr_plus_one", "truncated_snr", "min_snr", SOUP_FULL_RANGE, SOUP_GREEDY, LOSS_EQUIVALENT,
)  # fmt: skip
DEME = ("ensemble", "merged_uniform", "merged")
NONNEGATIVE = "merged_nonnegative"
OWN = ("pretrained", *DEME, NONNEGATIVE)  # no rivals


def dag(N: int, rivals: Sequence[str], references: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """The section `dag`.

    Args:
        references: every prompt set -> its `reference`.

    Returns:
        ranges: 1 … N.
        models: every model that is sampled and measured -> its path below models/, samples/, features/ and scores/.
        finetunes: every rival that is trained -> what its training waits for beside data and base.
        searches: every model that a search beside DeMe's makes -> the vectors that it combines, and its kind (a row of
            `deme_core.merging.search.KINDS`).
        prompted: every model on every prompt set, MODEL+SET -> both, the model's path, and the features of real images
            that evaluate_prompts reads (of a set without them what never changes).
        prompt_reports: what shows them -> its folder; none without prompt sets.

    Raises:
        InputError: a rival is unknown or named twice.
    """
    for rival in rivals:
        if rival not in RIVALS:
            raise InputError(f"params: rivals: {rival!r} is unknown; known are {', '.join(RIVALS)}")
    if len(set(rivals)) < len(rivals):
        raise InputError(f"params: rivals = {list(rivals)}: each stands once")
    finetunes = {
        rival: {"after": f"search/n{N}/{NONNEGATIVE}" if rival == LOSS_EQUIVALENT else "data/examples"}
        for rival in rivals
        if rival != SOUP_GREEDY
    }
    searches = {}
    if LOSS_EQUIVALENT in rivals:
        searches[NONNEGATIVE] = {"kind": "nonnegative", "vectors": f"models/n{N}/vectors"}
    own = (*DEME, *searches)
    searches |= {f"{r}+scale": {"kind": "scale", "vectors": f"models/n{N}/rivals/{r}"} for r in finetunes}
    if SOUP_GREEDY in rivals:
        searches[SOUP_GREEDY] = {"kind": "greedy", "vectors": f"models/n{N}/vectors"}
    models = {"pretrained": "pretrained"} | {m: f"n{N}/{m}" for m in [*own, *finetunes, *searches]}
    sets = {name: reference or UNCHANGING for name, reference in (references or {}).items()}
    return {
        "ranges": list(range(1, N + 1)),
        "models": models,
        "finetunes": finetunes,
        "searches": searches,
        "prompted": {
            f"{model}+{name}": {"model": model, "path": path, "set": name, "reference": reference}
            for name, reference in sets.items()
            for model, path in models.items()
        },
        "prompt_reports": {"table2": "reports/prompts"} if sets else {},
    }


def check_dag(
    section: Any, N: int, rivals: Sequence[str], references: Mapping[str, str | None] | None = None
) -> None:  # fmt: skip
    """Refuse a section that belongs to other params: dvc.yaml would make stages of it."""
    if section != dag(N, rivals, references):
        raise InputError(
            f"params: dag is not that of N = {N}, rivals = {list(rivals)}; it is derived: set these with"
            " `dvc exp run -S N=… -S rivals=…`, which composes params.yaml anew"
        )
