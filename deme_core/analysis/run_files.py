"""What a figure is made of: the run's params, and where its outputs lie."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deme_core.analysis.names import EXPERT, LABELS, numbered
from deme_core.analysis.settings import AnalyseParams
from deme_core.checkpoints import denoiser_dir, load_noise_schedule
from deme_core.dag import FURTHER, RANDOM, SOUP_GREEDY
from deme_core.data.examples import Examples, load_examples
from deme_core.errors import InputError
from deme_core.merging.methods import EQ_8, MergeParams
from deme_core.merging.task_vectors import TaskVectors, vector_files
from deme_core.sampling.settings import SamplerParams
from deme_core.search.objective import MergedModel
from deme_core.timesteps import TimestepRanges

SPAN = f"span of the {EXPERT}s"  # what their task vectors span: where a merge of them can go


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run; folders are those that dvc.yaml fills, and a figure reads what `analyses.READS` says."""

    params: AnalyseParams
    N: int
    boundaries: tuple[int, ...] | None
    baselines: tuple[str, ...]
    directions: tuple[str, ...]
    random_draws: int
    sampler: SamplerParams
    merge: MergeParams = EQ_8
    """Eq. 8, in the dtype of the run's merges."""
    extractor: str
    """Folder of the extractor that the features are of."""
    models: Path
    examples: Path
    reference: Path
    search: Path
    samples: Path
    features: Path

    @property
    def pretrained(self) -> Path:
        """The pipeline of θ."""
        return self.models / "pretrained"

    @property
    def base(self) -> Path:
        """The folder of θ's denoiser."""
        return denoiser_dir(self.pretrained)

    @property
    def models_of_N(self) -> Path:
        """The folder of the models of N ranges."""
        return self.models / f"n{self.N}"

    @property
    def schedule(self) -> Any:
        """The noise schedule of the training."""
        return load_noise_schedule(self.pretrained)

    def ranges(self, T: int) -> TimestepRanges:
        """The ranges of the experts."""
        return TimestepRanges.of(self.N, T, self.boundaries)

    def training_part(self) -> Examples:
        """What the experts were trained on."""
        return load_examples(self.examples, "train")

    def merged(self, files: Sequence[Path]) -> MergedModel:
        """Merges of the task vectors in some files, rounded as the run writes them."""
        return MergedModel(self.pretrained, list(files), dtype=self.merge.written)

    @contextmanager
    def expert_vectors(self) -> Iterator[TaskVectors]:
        """τ_1, …, τ_N, open as long as they are read; those of another θ are refused."""
        vectors = TaskVectors.open(self.base, vector_files(self.models_of_N / "vectors"))
        with ExitStack() as stack:
            for file in (vectors.base, *vectors.members):
                stack.enter_context(file)
            yield vectors

    def vectors(self) -> dict[str, Path]:
        """Every task vector of the run, by its name for people: the experts first."""
        return dict(self._vectors())

    def _vectors(self) -> Iterator[tuple[str, Path]]:
        yield from _numbered(EXPERT, self.models_of_N / "vectors", several=True)
        for name, label in LABELS.items():
            if name in self.directions:
                yield from _numbered(label, Path(self.models, *Path(FURTHER[name].vectors).parts[1:]))
        for baseline in self.baselines:
            if baseline != SOUP_GREEDY:  # of the experts: nothing is trained
                yield from _numbered(baseline, self.models_of_N / "baselines" / baseline)
        for draw in range(1, self.random_draws + 1):
            yield from _numbered(f"{RANDOM}{draw}", self.models_of_N / RANDOM / str(draw), several=True)

    def vector(self, name: str) -> Path:
        """The file of a task vector.

        Raises:
            InputError: there is none of this name.
        """
        found = self.vectors()
        if name not in found:
            raise InputError(f"params: analyse.plane: no task vector is called {name!r}; there are {', '.join(found)}")
        return found[name]


def _numbered(label: str, folder: Path, *, several: bool = False) -> Iterator[tuple[str, Path]]:
    files = vector_files(folder)
    return zip(numbered(label, len(files), several=several), files, strict=True)
