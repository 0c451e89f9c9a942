"""What the tests of the figures share: small samples, and a denoiser whose gradients are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from conftest import N, sampler_params, search_result
from torch import nn

from deme_core.analysis.run_files import Run
from deme_core.analysis.settings import AnalyseParams
from deme_core.tensors import write_tensors

SMALL: dict[str, Any] = {
    "groups": 4, "draws": 8, "bins": 2, "batch_size": 4, "gradient_checkpointing": False, "coordinates": 1000000,
    "plane": None, "grid": 5, "images": 6, "distance_images": 0, "pictures": 3,
}  # fmt: skip


def analyse_params(**changes: Any) -> AnalyseParams:
    return AnalyseParams(**SMALL | changes)


class Affine(nn.Module):
    """ε̂ = a·x_t + b, so that every gradient of the denoising loss has a closed form."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value)) for value in (a, b))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.a * x + self.b)


def moments(x0: torch.Tensor, schedule: Any, span: tuple[int, int]) -> tuple[float, float, float]:
    """Means over data, noise and t in the span: of x_t², of x_t, and of ε·x_t."""
    signal = schedule.alphas_cumprod[slice(*span)].double()
    square = signal * x0.double().square().mean() + 1 - signal
    return float(square.mean()), float((signal.sqrt() * x0.double().mean()).mean()), float((1 - signal).sqrt().mean())


def affine_gradient(a: float, b: float, found: tuple[float, float, float]) -> np.ndarray:
    """∂/∂a and ∂/∂b of E‖ε − a·x_t − b‖², the mean over pixels."""
    square, mean, cross = found
    return np.array([2 * (a * square + b * mean - cross), 2 * (a * mean + b)])


def affine_optimum(found: tuple[float, float, float]) -> tuple[float, float]:
    """Where both are 0."""
    square, mean, cross = found
    a = cross / (square - mean**2)
    return a, -a * mean


def finished_run(folder: Path, pixels: torch.Tensor, extractor: Path, **changes: Any) -> Run:
    """A run whose models lie in folder/models already: its examples and its search, which liked w = (0.25, 0.5)."""
    write_tensors(folder / "data/examples/train.safetensors", {"pixels": pixels})
    (folder / "search").mkdir()
    search_result([0.25, 0.5]).write(folder / "search/result.json")
    given = {
        "params": analyse_params(), "N": N, "boundaries": None, "baselines": (), "directions": ("range", "self"),
        "random_draws": 1, "sampler": sampler_params(), "extractor": str(extractor), "models": folder / "models",
        "examples": folder / "data/examples", "reference": folder / "data/reference", "search": folder / "search",
        "samples": folder / "samples", "features": folder / "features",
    }  # fmt: skip
    return Run(**given | changes)
