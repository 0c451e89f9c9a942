"""What a search works on: an objective and a loss of the merged model, put together from files and params."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import denoiser_config, denoiser_dir
from deme_core.data.examples import load_examples
from deme_core.device import best_device
from deme_core.merging.methods import eq_8
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import FeatureParams
from deme_core.params import section
from deme_core.processes import partial_state
from deme_core.sampling.generate import Sampler
from deme_core.sampling.settings import SamplerParams
from deme_core.search.objective import MergedLoss, Objective, Scorer, Slope, make_objective
from deme_core.search.settings import SearchParams
from deme_core.search.slope import DistanceSlope
from deme_core.tensors import weights_hash


@dataclass(frozen=True)
class SearchTask:
    """Two functions of w, and what they are made of."""

    objective: Objective
    """Score of sampled images, which several processes share."""
    apart: Objective
    """The same, by one process alone."""
    loss: MergedLoss
    """Denoising loss on training examples."""
    slope: Slope
    """Of the objective over w, where that is the Fréchet distance."""
    sampler: Sampler
    identity: dict[str, Any]
    """What a score depends on beside w and its images."""

    @classmethod
    def of(
        cls, params: dict[str, Any], search: SearchParams, pretrained: Path, vectors: Sequence[Path], reference: Path,
        examples: Path, pixels: torch.Tensor | None = None, prompts: Sequence[str] = (),
    ) -> "SearchTask":  # fmt: skip
        """Of a run.

        Args:
            params: params.yaml.
            search: whose objective, extractors and per_block count.
            vectors: files of the task vectors.
            reference: features of the training part by `reference.extractor`.
            examples: output of the stage encode.
            pixels: images of the training part, uint8 [m, C, H, W], for further extractors.
            prompts: texts of the sampled images, in turn.
        """
        further = [Scorer.on(folder, pixels) for folder in search.extractors if pixels is not None]
        assert len(further) == len(search.extractors), "further extractors need the images"
        extractor = section(params, "reference", FeatureParams).extractor
        clip = section(params, "search_clip_score", ClipScoreParams)
        scorer = Scorer.of(search.objective, extractor, reference, clip, further)
        sampler = Sampler.of(pretrained, section(params, "sampler", SamplerParams), best_device(), tuple(prompts))
        merge = eq_8(params)
        loss = MergedLoss.of(
            pretrained, list(vectors), load_examples(examples, "train"), sampler, per_block=search.per_block,
            dtype=merge.written,
        )  # fmt: skip
        identity = sampler.identity | {
            "objective": [search.objective, loss.model.blocks], "scorer": scorer.identity, "dtype": merge.dtype,
            "denoiser": denoiser_config(denoiser_dir(pretrained)),
            "hashes": [weights_hash(file) for file in (*vectors, reference)],
        }  # fmt: skip
        slope = DistanceSlope(loss.model, sampler, scorer)
        objective = apart = make_objective(search.objective, loss, sampler, scorer)
        if partial_state().num_processes > 1:
            apart = make_objective(search.objective, loss, sampler, scorer, alone=True)
        return cls(objective, apart, loss, slope, sampler, identity)
