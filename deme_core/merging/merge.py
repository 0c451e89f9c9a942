"""The merge θ + Σ w_i τ_i (Eq. 8), tensor by tensor, into a complete pipeline directory."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from deme_core.checkpoints import copy_pipeline, denoiser_dir, load_denoiser, save_denoiser, weights_file
from deme_core.errors import InputError
from deme_core.merging.card import model_card
from deme_core.merging.task_vectors import TaskVectors
from deme_core.projection import fold_projections
from deme_core.tensors import shapes, stream_tensors, weights_hash


def merge_tensor(theta: torch.Tensor, taus: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """θ + Σ w_i τ_i (Eq. 8), summed in float32, in θ's dtype. w = 0 gives θ bit for bit: zero weights add nothing."""
    total = theta.float()
    for w, tau in zip(weights, taus, strict=True):
        if w != 0:
            total = total + w * tau
    return total.to(theta.dtype)


def check_weights(weights: Sequence[float], N: int) -> None:
    """One finite weight a task vector."""
    if len(weights) != N or not all(abs(w) < float("inf") for w in weights):
        raise InputError(f"weights {list(weights)}: a merge of {N} task vectors needs {N} finite numbers")


def write_merged(pretrained: Path, vectors: list[Path], weights: Sequence[float], out: Path, protocol: dict) -> None:
    """Write the merged pipeline: every other file of `pretrained` as it is, the denoiser's weights merged.

    With it merge.json (weights, hashes of θ and of each τ_i, `protocol` of the search) and a model card.
    """
    check_weights(weights, len(vectors))
    source = denoiser_dir(pretrained)
    tau = TaskVectors.open(source, vectors)
    recipe = {
        "method": "task arithmetic (DeMe, Eq. 8)",
        "weights": [float(w) for w in weights],
        "base_sha256": weights_hash(tau.base),
        "vectors_sha256": [weights_hash(file) for file in vectors],
        **protocol,
    }
    copy_pipeline(pretrained, out, weights=False)
    layout = {}
    for key in tau.keys():  # noqa: SIM118 (keys that θ lacks come last)
        theta = tau.base_tensor(key)
        layout[key] = (theta.dtype, tuple(theta.shape))
    target = out / source.name / weights_file(source).name
    stream_tensors(target, layout, lambda key: merge_tensor(tau.base_tensor(key), tau.tensors(key), weights), recipe)
    if layout.keys() != shapes(tau.base).keys():
        _fold_in_place(target.parent, recipe)
    (out / "merge.json").write_text(json.dumps(recipe, indent=2, sort_keys=True) + "\n")
    (out / "README.md").write_text(model_card(recipe))


def _fold_in_place(directory: Path, recipe: dict) -> None:
    """Placement `released`: W is merged first, and folded after, where it folds (the authors' order)."""
    model = load_denoiser(directory)
    fold_projections(model)
    save_denoiser(directory, directory, model.state_dict(), recipe)
