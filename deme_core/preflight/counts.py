"""What the params alone say of a run: how many images are trained on and sampled, with how many network calls."""

from dataclasses import dataclass
from typing import Any

from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.kinds import searched
from deme_core.search.lines import LINES
from deme_core.search.settings import SearchParams
from deme_core.training.learning_rate import most_steps
from deme_core.training.settings import TrainingParams


@dataclass(frozen=True)
class Counts:
    """What the params alone say."""

    trained: int
    """Images through all trainings and probes of a rate, at most, a forward and a backward pass each."""
    searched: int
    """Images that the searches sample, at most."""
    sampled: int
    """Images that are sampled to be measured or trained on, those of prompt sets included as far as they are known."""
    calls: int
    """Network calls an image."""

    @classmethod
    def of_own(cls, training: TrainingParams, sampler: SamplerParams, own_samples: OwnParams) -> "Counts":
        """Of a run without data, which ends with merge_away."""
        trained = own_samples.ranges * most_steps(training) * training.batch_size * training.gradient_accumulation
        return cls(trained, searched=0, sampled=own_samples.whole, calls=sampler.calls)

    @classmethod
    def of(
        cls, N: int, dag: dict[str, Any], training: TrainingParams, search: SearchParams, sampler: SamplerParams,
        sample: SampleParams, own_samples: OwnParams, prompted: int = 0,
    ) -> "Counts":  # fmt: skip
        """Of a run of N ranges whose stages the section `dag` names; `prompted` images of prompt sets a model."""
        steps = ((1 + len(dag["finetunes"])) * N + len(dag["own"]) * own_samples.ranges) * most_steps(training)
        kinds = ["deme", *(row["kind"] for row in dag["searches"].values())]
        asked = [(kind.split(), 1 if kind in LINES else N) for kind in kinds]
        searches = [(searched(lines, search, [n] * len(lines))[0], 1 + len(lines)) for lines, n in asked]
        images = sum(params.budget + (params.finalists + anchors) * params.final_images for params, anchors in searches)
        return cls(
            trained=steps * training.batch_size * training.gradient_accumulation,
            searched=images,
            sampled=len(dag["sampled"]) * (sample.images + prompted) + len(dag["own"]) * (own_samples.whole),
            calls=sampler.calls,
        )
