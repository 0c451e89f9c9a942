"""The null: random vectors as long as the task vectors, tensor by tensor. A gain that they reach too is none."""

from collections.abc import Sequence
from pathlib import Path

import torch

from deme_core.seeds import step_seed
from deme_core.tensor_files import Tensors
from deme_core.tensors import stream_tensors


def write_random_vectors(vectors: Sequence[Path], out: Path, seed: int, draw: int) -> None:
    """Write out/1.safetensors …: each tensor normally distributed, with the Euclidean norm that τ_i has there.

    One tensor at a time; metadata are those of τ_i, whose base the vectors share.

    Args:
        vectors: the files of τ_1 … τ_N.
        seed: of the training that made them.
        draw: which of the null's draws.
    """
    for i, file in enumerate(vectors, 1):
        with Tensors(file) as tau:

            def random(key: str, tau: Tensors = tau, i: int = i) -> torch.Tensor:
                value = tau.get_tensor(key)
                generator = torch.Generator().manual_seed(step_seed("random vector", seed, draw, i, key))
                direction = torch.randn(value.shape, generator=generator)
                return direction * (value.norm() / direction.norm())

            stream_tensors(out / file.name, tau.layout, random, tau.recipe | {"random_draw": draw})
