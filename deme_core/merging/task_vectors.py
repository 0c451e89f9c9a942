"""Task vectors τ_i = θ_i − θ, key by key, with the hash of the θ they belong to."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import weights_file
from deme_core.errors import InputError
from deme_core.projection import projection_keys
from deme_core.tensor_files import PIECE, Tensors, piece_bounds
from deme_core.tensors import check_same_layout, map_tensors, read_recipe, shapes, stream_tensors, weights_hash


class TaskVectors:
    """θ and the files of τ_1 … τ_N, or of the experts θ_i themselves; each opened once, tensors read when asked for."""

    def __init__(self, base: Tensors, members: Sequence[Tensors], *, experts: bool = False) -> None:
        """Refuse members with other keys, shapes or kinds of numbers than θ and than each other.

        Args:
            base: θ.
            members: τ_i, or θ_i with `experts`.
        """
        self.base, self.members, self.experts = base, members, experts
        first = members[0].shapes()
        for member in members:
            member_shapes = member.shapes()
            stay = set(projection_keys(member_shapes))
            plain = {key: shape for key, shape in member_shapes.items() if key not in stay}
            check_same_layout(plain, base.shapes(), str(member.path), str(base.path))
            check_same_layout(member_shapes, first, str(member.path), str(members[0].path))
        for tensors in (base, *members):
            for key, (dtype, _) in tensors.layout.items():
                if not dtype.is_floating_point:
                    raise InputError(f"{tensors.path}: '{key}' is {dtype}; only floating-point tensors are merged")
        # Key -> dtype and shape: θ's, then the projections that stay in the merged model (placement `released`).
        stays = {key: (torch.float32, first[key]) for key in sorted(projection_keys(first))}
        self.layout = dict(sorted(base.layout.items())) | stays

    @classmethod
    def open(cls, base_dir: Path, files: Sequence[Path]) -> "TaskVectors":
        """The task vectors of the stage task_vector; refuse those of another θ."""
        base = weights_file(base_dir)
        vectors = cls(Tensors(base), [Tensors(file) for file in files])
        vectors.check_base(weights_hash(base))
        return vectors

    def check_base(self, base_hash: str) -> None:
        """Refuse task vectors whose metadata do not name this hash of θ."""
        for member in self.members:
            made_from = member.recipe.get("base_sha256")
            if made_from != base_hash:
                raise InputError(
                    f"{member.path} is a task vector of another base model (θ {str(made_from)[:12]}, not"
                    f" {base_hash[:12]} of {self.base.path}); make it again from this one"
                )

    def keys(self) -> list[str]:
        """θ's keys, then those of projections that stay in the merged model (placement `released`)."""
        return list(self.layout)

    def base_flat(self, key: str, start: int, stop: int) -> torch.Tensor:
        """The elements [start, stop) of θ at a key; a projection of the experts stands at the identity in θ."""
        if key in self.base.layout:
            return self.base.flat(key, start, stop)
        channels = self.members[0].layout[key][1][0]
        return torch.eye(channels).flatten()[start:stop]

    def flat(self, key: str, start: int, stop: int, theta: torch.Tensor) -> Iterator[torch.Tensor]:
        """The same elements of τ_1, …, τ_N, one after the other, float32 (float64 where θ is).

        Args:
            theta: those of θ, in the precision to compute in.
        """
        for member in self.members:
            value = member.flat(key, start, stop).to(theta.dtype)
            yield value - theta if self.experts else value

    def base_tensor(self, key: str) -> torch.Tensor:
        """θ at a key."""
        _, shape = self.layout[key]
        return self.base_flat(key, 0, torch.Size(shape).numel()).reshape(shape)

    def mapped(self) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]]]:
        """Key -> θ, and key -> [τ_1, …, τ_N], each in its file's dtype, as read-only maps of the files."""
        assert not self.experts, "experts are no task vectors"
        base, taus = map_tensors(self.base.path), [map_tensors(member.path) for member in self.members]
        theta = {key: base[key] if key in base else self.base_tensor(key) for key in self.keys()}
        return theta, {key: [tau[key] for tau in taus] for key in theta}


def compute_dtype(theta: torch.Tensor) -> torch.dtype:
    """Sums are formed in float32, or in θ's own dtype where that is wider."""
    return torch.promote_types(theta.dtype, torch.float32)


def vector_files(directory: Path) -> list[Path]:
    """The files of τ_1 … τ_N in the folder that the stages task_vector@i or finetune_baseline@name fill, in that order;
    of a file itself alone.

    Raises:
        InputError: there is none, or one between the first and the last is missing.
    """
    if directory.is_file():
        return [directory]
    found = {int(file.stem) for file in directory.glob("*.safetensors") if file.stem.isdigit()}
    if not found or found != set(range(1, len(found) + 1)):
        raise InputError(f"{directory}: task vectors {sorted(found)} are not 1, 2, … without a gap; run `dvc repro`")
    return [directory / f"{i}.safetensors" for i in sorted(found)]


def write_task_vector(base_dir: Path, expert_dir: Path, out: Path, recipe: Mapping[str, Any] | None = None) -> None:
    """τ = θ_i − θ in float32, one tensor at a time.

    A projection that did not fold (placement `released`) stands at the identity in θ: τ_W = W − I.

    Args:
        recipe: what θ_i is, where no finetune of θ wrote it; None: its own, which names θ.

    Raises:
        InputError: keys or shapes differ, or the expert was finetuned from another θ.
    """
    base, expert = weights_file(base_dir), weights_file(expert_dir)
    base_hash = weights_hash(base)
    recipe = read_recipe(expert) if recipe is None else {**recipe, "base_sha256": base_hash}
    if recipe.get("base_sha256") != base_hash:
        raise InputError(
            f"{expert} was finetuned from another base model (θ {str(recipe.get('base_sha256'))[:12]}, not"
            f" {base_hash[:12]} of {base}); finetune it again"
        )
    layout = shapes(expert)
    stay = set(projection_keys(layout))
    check_same_layout({k: v for k, v in layout.items() if k not in stay}, shapes(base), str(expert), str(base))
    with Tensors(base) as theta, Tensors(expert) as theta_i:

        def tau(key: str) -> torch.Tensor:
            value = theta_i.get_tensor(key).float()
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{expert}: '{key}' holds NaN or infinite values; finetune this range again")
            start = torch.eye(len(value))[:, :, None, None] if key in stay else theta.get_tensor(key).float()
            return value - start

        stream_tensors(
            out,
            {key: (torch.float32, shape) for key, shape in layout.items()},
            tau,
            recipe | {"expert_sha256": weights_hash(expert)},
        )


def write_task_vectors(base_dir: Path, folder: Path, members: int) -> None:
    """`write_task_vector` of the denoisers folder/1 … folder/K, each to a safetensors file of its name beside it."""
    for k in range(1, members + 1):
        write_task_vector(base_dir, folder / str(k), folder / f"{k}.safetensors")


def cosines(files: Sequence[Path]) -> Any:
    """Cosine similarity of every pair of task vectors, float64 [N, N] (the paper's Fig. 8); 0 to a vector of zeros.

    Sums are formed in float64, piece by piece, so that a vector takes no more memory than a piece.

    Raises:
        InputError: the files hold other keys or shapes than each other.
    """
    gram = torch.zeros(len(files), len(files), dtype=torch.float64)
    with ExitStack() as stack:
        vectors = [stack.enter_context(Tensors(file)) for file in files]
        for vector in vectors:
            check_same_layout(vector.shapes(), vectors[0].shapes(), str(vector.path), str(vectors[0].path))
        for key in vectors[0].layout:
            for start, stop in piece_bounds(vectors[0].numel(key), PIECE // 16):
                rows = torch.empty(len(files), stop - start, dtype=torch.float64)
                for row, vector in zip(rows, vectors, strict=True):
                    row.copy_(vector.flat(key, start, stop))
                gram += rows @ rows.T
    norms = gram.diagonal().sqrt().clamp(min=1e-12)
    return (gram / torch.outer(norms, norms)).numpy()
