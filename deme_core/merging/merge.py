"""The merge of task vectors or of experts, tensor by tensor, into a complete pipeline or denoiser folder."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import (
    class_to_load,
    copy_pipeline,
    denoiser_dir,
    denoiser_of,
    load_denoiser,
    weights_file,
)
from deme_core.errors import InputError
from deme_core.merging.card import model_card
from deme_core.merging.hashing import HashedTensors, Hasher, TensorHash, all_finite
from deme_core.merging.methods import EQ_8, METHODS, MergeParams, block_of, check_blocks
from deme_core.merging.output import (
    atomic_folder,
    check_out,
    check_room,
    file_sizes,
    frame,
    rewrite_recipe,
    shard_layouts,
    write_weights,
)
from deme_core.merging.task_vectors import TaskVectors, compute_dtype
from deme_core.progress import progress
from deme_core.projection import fold_projections
from deme_core.tensor_files import PIECE, Layout, piece_bounds
from deme_core.tensors import nbytes

UNKNOWN = "0" * 64  # stands in a header for a SHA-256 that is known once everything has been read


@dataclass(frozen=True)
class Merge:
    """One merge: what is read, and how it becomes one model. Each tensor is asked for once, in the order of names."""

    inputs: tuple[HashedTensors, ...]
    """θ, then the τ_i or the θ_i."""
    vectors: TaskVectors
    """The same inputs as task vectors."""
    weights: tuple[float, ...]
    params: MergeParams
    max_shard_size: int | None
    hasher: Hasher
    layout: Layout
    """Key -> dtype and shape of what is written."""

    @classmethod
    def of(
        cls, hasher: Hasher, base: Path, members: Sequence[Path], weights: Sequence[float] | None, params: MergeParams,
        *, experts: bool, max_shard_size: int | None = None,
    ) -> "Merge":  # fmt: skip
        """Open and check everything that can be checked before tensors are read.

        Args:
            base: the weights of θ, a safetensors file or an index of shards.
            members: those of τ_1 … τ_N, or of θ_1 … θ_N with `experts`.
            weights: w; None for 1/N each.
            max_shard_size: bytes of tensors a file of the output; None writes one.
        """
        N, row = len(members), METHODS[params.method]
        if weights is None:
            weights = [1 / N] * N
        elif not row.weighted:
            raise InputError(f"weights {list(weights)}: the method {params.method} takes none, it is w = 1/{N} for all")
        check_weights(weights, N)
        check_blocks(params, N)
        inputs = tuple(HashedTensors(file, hasher) for file in (base, *members))
        vectors = TaskVectors(inputs[0], inputs[1:], experts=experts)
        blocks = {block_of(key) for key in vectors.layout}
        for block in params.blocks:
            if block not in blocks:
                raise InputError(f"merge.blocks: the model has no block '{block}'; it has {', '.join(sorted(blocks))}")
        layout = {key: (params.written or theirs, shape) for key, (theirs, shape) in vectors.layout.items()}
        return cls(inputs, vectors, tuple(map(float, weights)), params, max_shard_size, hasher, layout)

    def pieces(self, key: str) -> Iterator[torch.Tensor]:
        """The merged elements of a tensor, in the dtype of `layout`."""
        row, (dtype, shape) = METHODS[self.params.method], self.layout[key]
        numel = torch.Size(shape).numel()
        for start, stop in piece_bounds(numel, max(numel, 1) if row.copies else PIECE):
            theta = self.vectors.base_flat(key, start, stop)
            theta = theta.to(compute_dtype(theta))
            taus = self.vectors.flat(key, start, stop, theta)
            value = row.merge(theta, taus, self.weights, self.params, key).to(dtype)
            if not all_finite(value):
                raise InputError(f"'{key}' overflows {dtype} in the merged model: write a wider dtype")
            yield value

    def input_bytes(self, key: str) -> int:
        """Bytes of a tensor in all inputs."""
        return sum(nbytes(*tensors.layout[key]) for tensors in self.inputs if key in tensors.layout)

    def recipe(self) -> dict[str, Any]:
        """What merge.json says of it, the hashes still UNKNOWN."""
        row, dtypes = METHODS[self.params.method], {str(dtype) for dtype, _ in self.layout.values()}
        return {
            "method": self.params.method,
            **{name: getattr(self.params, name) for name in row.params},
            "weights": list(self.weights),
            "dtype": dtypes.pop().removeprefix("torch.") if len(dtypes) == 1 else None,  # null: θ's, key by key
            "max_shard_size": self.max_shard_size,
            "base_sha256": UNKNOWN,
            self.members_key: [UNKNOWN] * len(self.weights),
            "output_sha256": UNKNOWN,
        }

    @property
    def members_key(self) -> str:
        """Where a recipe has the hashes of what was merged into θ."""
        return "experts_sha256" if self.vectors.experts else "vectors_sha256"


def check_weights(weights: Sequence[float], N: int) -> None:
    """One finite weight a task vector."""
    if len(weights) != N or not all(abs(w) < float("inf") for w in weights):
        raise InputError(f"weights {list(weights)}: a merge of {N} task vectors needs {N} finite numbers")


def write_merged(
    pretrained: Path, vectors: list[Path], weights: Sequence[float] | None, out: Path, protocol: dict[str, Any],
    params: MergeParams = EQ_8,
) -> None:  # fmt: skip
    """Merge the pipeline's own task vectors of θ into the folder `out`, and refuse those of another θ.

    Args:
        weights: w; None for 1/N each.
        protocol: what else merge.json records, of the search.
    """
    check_out(out, pretrained, vectors, force=True)
    with Hasher.running() as hasher:
        merge = Merge.of(hasher, weights_file(denoiser_dir(pretrained)), vectors, weights, params, experts=False)
        write(merge, pretrained, out, protocol, lambda recipe: merge.vectors.check_base(recipe["base_sha256"]))


def write(
    merge: Merge, source: Path, out: Path, protocol: dict[str, Any], check: Callable[[dict[str, Any]], None]
) -> None:
    """Write the merged model in place of `out`: the other files of `source` as they are, merge.json and a model card.

    Nothing stands at `out` before everything does.

    Args:
        source: θ's pipeline or denoiser folder.
        check: refuses a recipe whose hashes are not those that it should have.
    """
    needed = sum(file_sizes(merge.layout, merge.max_shard_size, merge.recipe() | protocol).values())
    check_room(out, needed + sum(file.stat().st_size for file in frame(source)))
    with atomic_folder(out) as folder:
        target = _copy_frame(source, folder)
        layout, recipe = merge.layout, merge.recipe() | protocol
        with progress(total=sum(map(merge.input_bytes, layout)), desc="merging", unit="B", unit_scale=True) as bar:

            def merged(key: str) -> Iterator[torch.Tensor]:
                yield from merge.pieces(key)
                bar.update(merge.input_bytes(key))

            parts, output = _write_hashed(merge, target, layout, merged, recipe)
        recipe["base_sha256"], *recipe[merge.members_key] = (tensors.hash.hexdigest() for tensors in merge.inputs)
        if layout.keys() != merge.inputs[0].layout.keys():
            # Placement `released`: W is merged first, and folded after, where it folds (the authors' order).
            model = load_denoiser(target)
            fold_projections(model)
            state_dict = {key: value.to(layout[key][0]) for key, value in model.state_dict().items()}
            for name in parts:
                (target / name).unlink()
            layout = {key: layout[key] for key in state_dict}
            parts, output = _write_hashed(merge, target, layout, lambda key: [state_dict[key]], recipe)
        recipe["output_sha256"] = output
        check(recipe)
        rewrite_recipe(target, parts, recipe)
        (folder / "merge.json").write_text(json.dumps(recipe, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(model_card(recipe, class_to_load(folder)), encoding="utf-8")


def _copy_frame(source: Path, folder: Path) -> Path:
    """Copy everything but the weights; the folder that they belong into."""
    denoiser = denoiser_of(source)
    if denoiser == source:
        shutil.copyfile(source / "config.json", folder / "config.json")
        return folder
    copy_pipeline(source, folder, weights=False)
    return folder / denoiser.name


def _write_hashed(
    merge: Merge, target: Path, layout: Layout, pieces: Callable[[str], Iterable[torch.Tensor]], recipe: dict[str, Any]
) -> tuple[dict[str, Layout], str]:
    """Write the weights; the layout of each file, and the hash of all."""
    digest, parts = TensorHash(merge.hasher), shard_layouts(layout, merge.max_shard_size)

    def hashed(key: str) -> Iterator[torch.Tensor]:
        digest.begin(key, *layout[key])
        for piece in pieces(key):
            digest.update(piece)
            yield piece

    write_weights(target, parts, hashed, recipe)
    return parts, digest.hexdigest()
