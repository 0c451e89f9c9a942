"""Published reference statistics: npz files with the mean and covariance of features."""

import hashlib
import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from deme_core.errors import InputError
from deme_core.metrics.moments import Moments
from deme_core.naming import said
from deme_core.tensors import read_recipe, read_tensors, write_tensors
from deme_core.zip_files import entries, open_zip, read_entry

NAME = "statistics.safetensors"
HEADER = 2**16  # bytes before the numbers of an array
LARGEST_NUMBER = 16  # bytes
MOST_FEATURES = 2**16


def import_statistics(path: Path, dimension: int, folder: Path) -> None:
    """Check an npz of `mu` [D] and `sigma` [D, D] and write it to `folder` with its file name and SHA-256.

    Raises:
        InputError: no such file, no npz of these arrays, no covariance, or D is not `dimension`, the extractor's.
    """
    if not path.is_file():
        raise InputError(f"params: reference.statistics = '{path}': no such file; give an npz with mu and sigma")
    try:
        with open_zip(path) as archive:
            mean = _array(archive, "mu", MOST_FEATURES)
            covariance = _array(archive, "sigma", dimension**2) if mean.size == dimension else None
        if covariance is not None:
            Moments.from_statistics(mean, covariance, n=2)
    except Exception as error:  # zipfile, its decompressors and numpy raise what they stumble over
        raise InputError(f"{path}: no npz of mu [D] and sigma [D, D] ({said(error)}); fetch it again") from None
    if covariance is None:
        raise InputError(
            f"{path}: statistics of {mean.size} features, the extractor gives {dimension}; both must be of one network"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tensors = {"mean": torch.from_numpy(mean), "covariance": torch.from_numpy(covariance)}
    write_tensors(folder / NAME, tensors, {"file": path.name, "sha256": digest})


def _array(archive: ZipFile, name: str, most: int) -> np.ndarray:
    """The array of at most so many real numbers in an npz, float64."""
    info = entries(archive).get(f"{name}.npy")
    if info is None:
        raise ValueError(f"holds no '{name}'")
    data = read_entry(archive, info, HEADER + most * LARGEST_NUMBER)
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if array.dtype.kind not in "fiu":  # astype would drop the imaginary part of a number without an error
        raise ValueError(f"'{name}' is of type {array.dtype}, not of real numbers")
    return array.astype(np.float64)


def read_statistics(folder: Path) -> tuple[Moments, dict[str, Any]] | None:
    """The moments that `import_statistics` wrote, and their recipe; None where there are none.

    The count of images behind them is unknown and stands at 2: it plays no part in a distance to them.
    """
    if not (folder / NAME).is_file():
        return None
    tensors = read_tensors(folder / NAME)
    moments = Moments.from_statistics(tensors["mean"].numpy(), tensors["covariance"].numpy(), n=2)
    return moments, read_recipe(folder / NAME)
