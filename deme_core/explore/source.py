"""What a window is opened on: a base, its task vectors, and what is known of their weights."""

from dataclasses import dataclass
from pathlib import Path

from deme_core.explore.directions import Directions
from deme_core.explore.searches import Search
from deme_core.merging.methods import EQ_8, MergeParams
from deme_core.sampling.settings import SamplerParams


@dataclass(frozen=True, kw_only=True)
class Source:
    """The models of a run, or of anyone."""

    title: str
    base: Path
    """Pipeline of θ."""
    directions: Directions
    sampler: SamplerParams
    prompts: tuple[str, ...] = ()
    """That image k has in turn, where nothing else is typed; none of an unconditional pipeline."""
    searches: tuple[Search, ...] = ()
    away: float | None = None
    """Set length of the step away from own samples; None: the run has no such step."""
    merge: MergeParams = EQ_8
    """How a merge is written: by Eq. 8, in whose dtype."""
    experts: tuple[Path, ...] = ()
    """The finetuned models that were given, where task vectors were made of them."""
