"""The window without its looks: where sliders stand -> images, a prediction, a merged pipeline on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import torch

from deme_core.checkpoints import denoiser_of, load_noise_schedule, weights_file
from deme_core.components import is_text_to_image
from deme_core.denoising import single
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.explore.asked import Asked
from deme_core.explore.searches import Prediction, predict
from deme_core.explore.source import Source
from deme_core.merging.hashing import Hasher
from deme_core.merging.merge import Merge, write, write_merged
from deme_core.merging.output import check_out
from deme_core.sampling.conditions import Conditions
from deme_core.sampling.generate import Sampler
from deme_core.sampling.schedulers import check_sampler
from deme_core.search.objective import MergedModel
from deme_core.search.trials import Weights
from deme_core.seeds import SeedBlock

NOTE = "The weights were set by hand; nothing was measured."


class Session:
    """One base in memory, its task vectors as maps of their files, and one merged model that changes."""

    def __init__(self, source: Source) -> None:
        """Load the base.

        Raises:
            InputError: task vectors are of another base, or a search was one of other task vectors.
        """
        self.source, self.places = source, source.directions.places
        for search in source.searches:
            found, there = search.result.N, sum(len(self.places[name]) for name in search.directions)
            if found != there:
                raise InputError(
                    f"{search.folder}: weights of {found} task vectors, and there are {there}; run `dvc repro` again"
                )
        self.model = MergedModel(source.base, source.directions.vectors, dtype=source.merge.written)
        self.text = is_text_to_image(source.base)
        self.sampler = Sampler.of(source.base, source.sampler, best_device(), source.prompts)
        self._shown: tuple[Asked, torch.Tensor] | None = None
        self._lock = Lock()  # there is one model, whose weights change

    def weights(self, values: Sequence[float]) -> Weights:
        """Of all task vectors, where the sliders stand at `values`."""
        return self.source.directions.weights(values)

    def images(self, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        """The base's images and the merge's from the same noise, that of the stage `sample`; uint8 [n, C, H, W] each.

        The network sees blocks of as many images as are asked for, where a run has larger ones; float results depend
        on that in the last bits.

        Raises:
            InputError: a sampler that cannot work, weights that are no finite numbers or lead to none.
        """
        weights = self.weights(asked.weights)
        sampler = self._sampler(asked)
        with self._lock:
            noise = replace(asked, weights=())
            if self._shown is None or self._shown[0] != noise:
                self._shown = noise, self._sampled(sampler, (0.0,) * len(weights), asked)
            return self._shown[1], self._sampled(sampler, weights, asked)

    def predict(self, values: Sequence[float]) -> Prediction:
        """What a search of the run says of these weights.

        Raises:
            NoPrediction: nothing.
        """
        return predict(self.source.searches, self.places, self.weights(values))

    def save(self, values: Sequence[float], out: Path) -> None:
        """Write the merged pipeline, with its merge.json, into a folder that is new or empty.

        Raises:
            InputError: the folder holds something, overlaps with an input, or has no room.
        """
        source, weights = self.source, self.weights(values)
        members = source.experts or source.directions.vectors
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise InputError(f"{out}: holds something already; name a new folder")
        check_out(out, source.base, members, force=False)
        if not source.experts:
            protocol = {"search": None, "note": NOTE}
            write_merged(source.base, source.directions.vectors, weights, out, protocol, source.merge)
            return
        base, *experts = (weights_file(denoiser_of(folder)) for folder in (source.base, *source.experts))
        with Hasher.running() as hasher:
            merge = Merge.of(hasher, base, experts, weights, source.merge, experts=True)
            write(merge, source.base, out, {"note": NOTE}, lambda recipe: None)

    def searched(self) -> dict[str, list[float]]:
        """Model of a search -> where the sliders stand for what it found; none of one with weights of every block."""
        found = {}
        for search in self.source.searches:
            if search.result.blocks:
                continue
            weights = [0.0] * len(self.source.directions.vectors)
            places = [i for name in search.directions for i in self.places[name]]
            for i, w in zip(places, search.result.weights, strict=True):
                weights[i] = w
            found[search.model] = self.source.directions.values(weights)
        return found

    def _sampler(self, asked: Asked) -> Sampler:
        """The run's sampler with the steps and the prompt that are asked for, in blocks no larger than what is seen."""
        params = self.source.sampler
        if asked.steps != params.steps:
            params = replace(params, steps=asked.steps, timesteps=None)
            check_sampler(load_noise_schedule(self.source.base), params, self.text)
        params = replace(params, block=min(params.block, asked.images))
        sampler = replace(self.sampler, params=params)
        if asked.prompt and not self.text:
            raise InputError(f"prompt {asked.prompt!r}: {self.source.base} takes no text; leave it empty")
        if asked.prompt:
            return replace(sampler, conditions=Conditions((asked.prompt,), self.sampler.conditions.encode))
        return sampler

    def _sampled(self, sampler: Sampler, weights: Weights, asked: Asked) -> torch.Tensor:
        denoise = single(self.model.at(weights), sampler.device)
        named = ", ".join(f"{w:g}" for w in weights)
        return sampler.images(
            denoise, SeedBlock.EVALUATION, asked.seed, asked.images, lambda t: f"the merge with w = ({named})"
        )
