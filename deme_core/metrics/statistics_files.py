"""Published reference statistics: npz files with the mean and covariance of features."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deme_core.errors import InputError
from deme_core.metrics.moments import Moments
from deme_core.tensors import read_recipe, read_tensors, write_tensors

NAME = "statistics.safetensors"


def import_statistics(path: Path, dimension: int, folder: Path) -> None:
    """Check an npz of `mu` [D] and `sigma` [D, D] and write it to `folder` with its file name and SHA-256.

    Raises:
        InputError: no such file, no npz of these arrays, no covariance, or D is not `dimension`, the extractor's.
    """
    if not path.is_file():
        raise InputError(f"params: reference.statistics = '{path}': no such file; give an npz with mu and sigma")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
        Moments.from_statistics(mean, covariance, n=2)
    except (KeyError, ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no npz of mu [D] and sigma [D, D] ({error}); fetch it again") from None
    if mean.size != dimension:
        raise InputError(
            f"{path}: statistics of {mean.size} features, the extractor gives {dimension}; both must be of one network"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tensors = {"mean": torch.from_numpy(mean), "covariance": torch.from_numpy(covariance)}
    write_tensors(folder / NAME, tensors, {"file": path.name, "sha256": digest})


def read_statistics(folder: Path) -> tuple[Moments, dict[str, Any]] | None:
    """The moments that `import_statistics` wrote, and their recipe; None where there are none.

    The count of images behind them is unknown and stands at 2: it plays no part in a distance to them.
    """
    if not (folder / NAME).is_file():
        return None
    tensors = read_tensors(folder / NAME)
    moments = Moments.from_statistics(tensors["mean"].numpy(), tensors["covariance"].numpy(), n=2)
    return moments, read_recipe(folder / NAME)
