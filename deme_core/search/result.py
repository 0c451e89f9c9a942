"""What a search found: the file result.json."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.metrics.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The weights w, and what was seen of them. Changes are against w = 0 on the same seeds; below 0 is better."""

    method: str
    """That ran; never `auto`."""
    objective: str
    prompts: list[str]
    """Sets whose texts the images had beside the captions."""
    extractors: list[str]
    """That shared the score with `reference.extractor`."""
    weights: list[float]
    """w, block after block: the best finalist, or 0 where it does not beat w = 0 beyond the noise."""
    blocks: list[str]
    """Blocks of the network that have N weights each; none: N weights that all share."""
    search_change: float | None
    """Change of w in the first round; null where that sampled nothing."""
    search_score: float | None
    """The same as a score."""
    confirm_change: float
    """Change of w on the confirming seeds."""
    confirm_score: float
    """The same as a score."""
    gap: float | None
    """confirm_change − search_change: how much of the first change was luck."""
    confirm_score_pretrained: float
    """Of w = 0."""
    uniform: list[float]
    """The finalist beside: w = 1/N, or −1/N where a line leads away, and what params fix stays so."""
    confirm_score_uniform: float
    """Of it."""
    best: list[float]
    """The best finalist."""
    best_change_unit: str
    """`%` where a change of the objective is a ratio, else empty."""
    best_change: float
    """Of the best finalist, paired over the confirming blocks, with the ends of its 95 % interval."""
    best_change_low: float
    best_change_high: float
    trials: int
    """Scores of the first round."""
    images_sampled: float
    """In both rounds; a forward image of a loss counts 1 / (sampling steps)."""

    @property
    def N(self) -> int:
        """Number of task vectors."""
        return len(self.weights) // max(1, len(self.blocks))

    @property
    def change(self) -> Interval:
        """Of the best finalist."""
        return Interval(self.best_change, self.best_change_low, self.best_change_high)

    def __str__(self) -> str:
        """For people."""
        shown, unit = ", ".join(f"{w:.3g}" for w in self.best), self.best_change_unit and f" {self.best_change_unit}"
        low, high = (f"{end:+.3g}" for end in (self.best_change_low, self.best_change_high))
        kept = "taken" if any(self.weights) else "not told from 0, which is kept"
        return (
            f"best w = ({shown}), {self.objective} {self.best_change:+.3g}{unit} [{low}, {high}] on fresh images:"
            f" {kept}; {self.trials} trials, {self.images_sampled:,.0f} images"
        )

    def write(self, path: Path) -> None:
        """Write result.json."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "SearchResult":
        """What `write` wrote.

        Raises:
            InputError: there is no such file, or its keys are others.
        """
        found = read_json(path)
        if wrong := sorted(found.keys() ^ {field.name for field in fields(cls)}):
            raise InputError(f"{path}: {wrong[0]!r} is missing or unknown in a search's result; run merge_search again")
        return cls(**found)
