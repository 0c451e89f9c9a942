"""What people call the task vectors of a run, known before any of them is there."""

from collections.abc import Sequence

from deme_core.analyses import figure_names
from deme_core.dag import EARLY, RANDOM, SCALE, SELF, SOUP_FULL_RANGE, SOUP_GREEDY
from deme_core.errors import InputError
from deme_core.params import nearest
from deme_core.stage import RunParams

EXPERT = "expert"
LABELS = {SELF: "own samples", EARLY: "earlier checkpoint", SCALE: "ε scaled"}  # direction -> its vectors


def numbered(label: str, count: int, *, several: bool = False) -> list[str]:
    """The names of vectors of a kind; one that is alone needs no number, but where others of its kind may have some."""
    return [f"{label} {i}" if several or count > 1 else label for i in range(1, count + 1)]


def vector_names(run: RunParams, own_ranges: int) -> list[str]:
    """Every task vector that a run will have: the experts first.

    Args:
        own_ranges: how many finetunes on own samples there are, `own_samples.ranges`.
    """
    names = numbered(EXPERT, run.N, several=True)
    for direction, label in LABELS.items():
        if direction in run.directions:
            names += numbered(label, own_ranges if direction == SELF else 1)
    for baseline in run.baselines:
        if baseline != SOUP_GREEDY:  # of the experts: nothing is trained
            names += numbered(baseline, run.N if baseline == SOUP_FULL_RANGE else 1)
    for draw in range(1, run.random_draws + 1):
        names += numbered(f"{RANDOM}{draw}", run.N, several=True)
    return names


def check_plane(plane: Sequence[str] | None, figures: Sequence[str] | str, run: RunParams, own_ranges: int) -> None:
    """Refuse a plane of the landscape that task vectors would span which the run will not have.

    Args:
        figures: those that the run makes, as in the param `analyses`.
    """
    if plane is None or "landscape" not in figure_names(figures):
        return
    names = vector_names(run, own_ranges)
    for name in plane:
        if name not in names:
            raise InputError(
                f"params: analyse.plane = {list(plane)}: the run will have no task vector {name!r}"
                f"{nearest(name, names)}; name two of {', '.join(names)}"
            )
