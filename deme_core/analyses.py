"""Which figures of the paper a run makes, and what each reads of it: the part `analyses` of the section `dag`.

They are made in `deme_core.analysis`, one a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deme_core.errors import InputError
from deme_core.inputs import UNCHANGING

ALL = "all"
MODELS = ("models", "own", "early", "scale")
IMAGES = ("samples", "base_samples", "features", "base_features")
READS: Mapping[str, tuple[str, ...]] = {
    "gradients": ("models",),
    "critical_point": ("models", "search"),
    "vectors": MODELS,
    "cosines": MODELS,
    "landscape": (*MODELS, "search"),
    "activations": MODELS,
    "before_after": (*IMAGES, "search"),
}
"""Figure -> what it reads beside base and examples, names of what `analyses` maps to paths."""


def figure_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """The param `analyses` as names, in its order; `all` are all.

    Raises:
        InputError: one is unknown, or named twice.
    """
    if names == ALL:
        return tuple(READS)
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        if name not in READS:
            raise InputError(f"params: analyses: {name!r} is unknown; known are {', '.join(READS)}, or {ALL} for all")
    if len(set(found)) < len(found):
        raise InputError(f"params: analyses = {found}: each stands once")
    return tuple(found)


def analyses(N: int, names: Sequence[str] | str, directions: Sequence[str]) -> dict[str, Any]:
    """Figure -> what it reads -> the file or folder; in the place of what it does not read, what never changes."""
    paths = {
        "models": f"models/n{N}",
        "own": "models/own" if "self" in directions else UNCHANGING,
        "early": "models/early" if "early" in directions else UNCHANGING,
        "scale": "models/scale" if "scale" in directions else UNCHANGING,
        "search": f"search/n{N}/merged",
        "samples": f"samples/n{N}",
        "base_samples": "samples/pretrained",
        "features": f"features/n{N}",
        "base_features": "features/pretrained.safetensors",
    }
    return {
        figure: {what: path if what in READS[figure] else UNCHANGING for what, path in paths.items()}
        for figure in figure_names(names)
    }
