"""What the params alone say of a run: how many images are trained on and sampled, with how many network calls."""

from dataclasses import dataclass
from typing import Any

from deme_core.dag import SOUP_FULL_RANGE
from deme_core.sampling.settings import OwnParams, SampleParams, SamplerParams
from deme_core.search.kinds import searched
from deme_core.search.lines import LINES
from deme_core.search.settings import SearchParams
from deme_core.training.learning_rate import RATES, most_steps
from deme_core.training.settings import AUTO, TrainingParams


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
    finetunes: int
    """Denoisers that are trained: experts, those of own samples and of baselines."""
    probes: int
    """Of a rate, at most: short finetunes, whose denoisers and resume states are kept as well."""

    @classmethod
    def of_own(cls, training: TrainingParams, sampler: SamplerParams, own_samples: OwnParams) -> "Counts":
        """Of a run without data, which ends with merge_away."""
        trained = own_samples.ranges * most_steps(training) * training.batch_size * training.gradient_accumulation
        finetunes = own_samples.ranges
        return cls(
            trained, searched=0, sampled=own_samples.whole, calls=sampler.calls,
            finetunes=finetunes, probes=finetunes * _probes(training),
        )  # fmt: skip

    @classmethod
    def of(
        cls, N: int, dag: dict[str, Any], training: TrainingParams, search: SearchParams, sampler: SamplerParams,
        sample: SampleParams, own_samples: OwnParams, prompted: int = 0,
    ) -> "Counts":  # fmt: skip
        """Of a run of N ranges whose stages the section `dag` names; `prompted` images of prompt sets a model."""
        baselines = sum(N if name == SOUP_FULL_RANGE else 1 for name in dag["finetunes"])
        finetunes = N + baselines + len(dag["own"]) * own_samples.ranges
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
            finetunes=finetunes,
            probes=finetunes * _probes(training),
        )


def _probes(training: TrainingParams) -> int:
    """Of one finetune's rate, at most."""
    return len(RATES) if training.learning_rate == AUTO else 0
