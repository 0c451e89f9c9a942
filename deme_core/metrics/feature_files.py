"""Features on disk, bound to the extractor that made them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor
from deme_core.tensors import read_recipe, read_tensors, write_tensors


def write_features(
    path: Path, features: np.ndarray, extractor: Extractor, protocol: dict[str, Any] | None = None
) -> None:
    """features: float32 [n, D]; `protocol`: what made the images, where they were sampled."""
    recipe = {"extractor": extractor.name, "extractor_sha256": extractor.sha256} | (protocol or {})
    write_tensors(path, {"features": torch.from_numpy(features)}, recipe)


def read_features(path: Path, extractor_sha256: str) -> np.ndarray:
    """float32 [n, D]; refuses features of another extractor: their distances have another unit."""
    recipe = read_recipe(path)
    if recipe.get("extractor_sha256") != extractor_sha256:
        raise InputError(
            f"{path} was made by extractor {recipe.get('extractor')} ({str(recipe.get('extractor_sha256'))[:12]}),"
            f" the run's extractor is {extractor_sha256[:12]}; run the stages reference and features again"
        )
    features = read_tensors(path).get("features")
    if features is None or features.ndim != 2 or features.dtype != torch.float32 or not features.numel():
        found = "none" if features is None else f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
        raise InputError(f"{path}: needs a tensor 'features', float32 [n, D], holds {found}; make it again")
    return features.numpy()
