"""What a model's images of a prompt set are worth: CLIP score, and where there are real images, Fréchet distance."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from deme_core.errors import InputError
from deme_core.metrics.bootstrap import bootstrap_interval, prompt_means
from deme_core.metrics.clip_score import ClipScore
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.frechet import FrechetReference
from deme_core.metrics.moments import Moments
from deme_core.parallel import PIECE, in_order
from deme_core.prompts.settings import PromptParams, Prompts, of_images

Stream = Callable[[], Iterable[torch.Tensor]]
"""Gives all images from the first on, each time it is called: uint8 [k, C, H, W]."""


def clip_scores(images: Stream, count: int, prompts: Prompts, score: ClipScore) -> pd.DataFrame:
    """One row an image: `image`, `prompt` (its index), `text`, `clip_score`.

    Raises:
        InputError: there are fewer images than prompts.
    """
    if count < len(prompts.texts):
        raise InputError(
            f"{count} images of the set '{prompts.name}', which has {len(prompts.texts)} prompts; sample one of each"
        )
    texts = of_images(prompts.texts, range(count))
    table = {"image": range(count), "prompt": of_images(range(len(prompts.texts)), range(count)), "text": texts}
    return pd.DataFrame(table | {"clip_score": score(images(), texts)})


def clip_metrics(table: pd.DataFrame) -> dict[str, float]:
    """`clip_score`, the mean over the prompts, with `_low` and `_high`: 95 %, by the bootstrap over prompts."""
    interval = bootstrap_interval(prompt_means(table["clip_score"], table["prompt"]))
    return {"clip_score": interval.value, "clip_score_low": interval.low, "clip_score_high": interval.high}


def frechet_metrics(images: Stream, extractor: Extractor, real: np.ndarray, blocks: int) -> dict[str, float]:
    """`frechet`, the plain distance of all images to the features `real` [m, D], and `frechet_block1` ….

    The blocks are of equal size, in the order of the images; what is left over is in `frechet` alone. Two models'
    distances are compared over them, see `deme_core.metrics.intervals.paired_interval`.

    Raises:
        InputError: a block would hold fewer than two images.
    """
    features = extractor(images())
    size = len(features) // blocks
    if size < 2:
        raise InputError(f"{len(features)} images in {blocks} blocks: each needs at least 2; raise prompts.….each")
    reference = FrechetReference(Moments.of(real))
    found = {"frechet": reference.distance(Moments.of(features))}
    for k in range(blocks):
        found[f"frechet_block{k + 1}"] = reference.distance(Moments.of(features[k * size : (k + 1) * size]))
    return found


def evaluate_prompts(
    images: Stream,
    protocol: Mapping[str, Any],
    prompts: Prompts,
    of_set: PromptParams,
    score: ClipScore,
    extractor: Extractor,
    blocks: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Flat metrics with their protocol, and the rows of `clip_scores`, of the images that a model has for a set.

    Args:
        images: sampled for the prompts in turn.
        protocol: what made them, as the stage sample wrote it.
        extractor: of the features in `of_set.reference`.
        blocks: of the Fréchet distance.

    Raises:
        InputError: the images are of other prompts or too few, or the reference is of another extractor.
    """
    count, known = protocol["images"], protocol.get("prompts")
    if known != len(prompts.texts):
        raise InputError(f"images of {known} prompts, '{prompts.name}' has {len(prompts.texts)}; sample them again")

    def measured() -> Iterator[torch.Tensor]:
        return resized(images(), of_set.size)

    table = clip_scores(measured, count, prompts, score)
    metrics = {"set": prompts.name, "prompts": len(prompts.texts), "images": count, "clip_model": score.name}
    metrics |= {"clip_commit": score.commit} if score.commit else {}
    metrics |= {"size": of_set.size} | clip_metrics(table)
    if of_set.reference is not None:
        real = read_features(Path(of_set.reference), extractor.sha256)
        metrics |= {"extractor": f"{extractor.name}-{extractor.sha256[:8]}", "reference_images": len(real)}
        metrics |= frechet_metrics(measured, extractor, real, blocks)
    metrics |= {"seed_block": protocol["seed_block"], "device": protocol["device"]}
    return metrics | {f"sampler_{key}": value for key, value in protocol["sampler"].items()}, table


def resized(images: Iterable[torch.Tensor], size: int | None) -> Iterator[torch.Tensor]:
    """The images with sides of `size` pixels, by Pillow's bicubic filter; None leaves them as they are."""
    for part in images:
        if size is None or part.shape[-2:] == (size, size):
            yield part
        else:
            yield torch.cat(list(in_order(partial(_resize, size=size), part.split(PIECE))))


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    channels: list[Any] = [Image.fromarray(channel.numpy()) for channel in images.flatten(0, 1)]
    small = [np.array(channel.resize((size, size), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(small)).unflatten(0, images.shape[:2])
