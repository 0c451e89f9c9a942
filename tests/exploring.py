"""A run that `deme explore` opens: a tiny base with two experts, a step along own samples, and their searches."""

import shutil
from pathlib import Path

import torch
import yaml
from conftest import REPOSITORY, sampler_params
from dag_runs import whole_dag
from searching import searched
from toy_run import TOY

from deme_core.checkpoints import denoiser_dir, load_denoiser
from deme_core.denoising import single
from deme_core.explore.asked import Asked
from deme_core.sampling.generate import Sampler
from deme_core.seeds import SeedBlock

OPTIMUM = (0.8, -0.3)
SAMPLER = {"kind": "ddim", "steps": 4, "spacing": "uniform", "block": 4}
SEARCH = {"bounds": (-0.5, 1.5), "images": 10, "budget": 200, "final_images": 40, "final_blocks": 2}


def score(w: tuple[float, ...], block: object, first: int, images: int) -> float:
    """Nearly a quadratic: with a rest that no fit removes, and a noise of the block."""
    away = sum((a - b) ** 2 for a, b in zip(w, OPTIMUM, strict=False))
    return 2.0 + away + 0.1 * away**2 + 1e-3 * (first % 7)


def write_run(folder: Path, pipeline: Path, vectors: list[Path]) -> Path:
    """What the stages leave: params.yaml, models/, search/."""
    shutil.copytree(pipeline, folder / "models" / "pretrained")
    (folder / "models" / "n2" / "vectors").mkdir(parents=True)
    (folder / "models" / "own").mkdir()
    for file in vectors:
        shutil.copy(file, folder / "models" / "n2" / "vectors")
    shutil.copy(vectors[0], folder / "models" / "own" / "1.safetensors")
    for name, N, method, bounds in (("merged", 2, "surrogate", (-0.5, 1.5)), ("neon", 1, "random", (-2.0, 1.0))):
        found, *_ = searched(folder / "search" / "n2" / name, score, N, method=method, **SEARCH | {"bounds": bounds})
        found.write(folder / "search" / "n2" / name / "result.json")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["merge_search"] |= TOY["merge_search"] | {"bounds": list(SEARCH["bounds"])}
    params["sampler"] |= SAMPLER
    params |= {"name": "toy", "N": 2, "dag": whole_dag(2, [])}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def asked(*weights: float, seed: int = 0, images: int = 4, steps: int = 4, prompt: str = "") -> Asked:
    return Asked(weights=weights, seed=seed, images=images, steps=steps, prompt=prompt)


def sampled(pipeline: Path, first: int = 0, images: int = 4) -> torch.Tensor:
    """Images of the evaluation's seeds by a pipeline on disk."""
    sampler = Sampler.of(pipeline, sampler_params(**SAMPLER), torch.device("cpu"))
    denoise = single(load_denoiser(denoiser_dir(pipeline)), torch.device("cpu"))
    return sampler.images(denoise, SeedBlock.EVALUATION, first, images)
