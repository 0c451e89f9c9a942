"""Task vectors τ_i = θ_i − θ, key by key, with the hash of the θ they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import weights_file
from deme_core.errors import InputError
from deme_core.projection import projection_keys
from deme_core.tensors import (
    check_same_layout,
    open_tensors,
    read_recipe,
    shapes,
    stream_tensors,
    weights_hash,
)


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of one base: their files, checked against θ. Tensors are read one at a time."""

    base: Path
    files: tuple[Path, ...]

    @classmethod
    def open(cls, base_dir: Path, files: list[Path]) -> "TaskVectors":
        """Refuse vectors of another θ, or with other keys or shapes than θ and than each other."""
        base = weights_file(base_dir)
        base_hash, layout = weights_hash(base), shapes(base)
        for file in files:
            made_from = read_recipe(file).get("base_sha256")
            if made_from != base_hash:
                raise InputError(
                    f"{file} is a task vector of another base model (θ {str(made_from)[:12]}, not {base_hash[:12]}"
                    f" of {base}); make it again from this one"
                )
            own = shapes(file)
            extra = projection_keys(own)
            check_same_layout({k: v for k, v in own.items() if k not in extra}, layout, str(file), str(base))
            check_same_layout(own, shapes(files[0]), str(file), str(files[0]))
        return cls(base, tuple(files))

    def keys(self) -> list[str]:
        """θ's keys, then those of projections that stay in the merged model (placement `released`)."""
        stay = sorted({key for file in self.files for key in projection_keys(shapes(file))})
        return sorted(shapes(self.base)) + stay

    def base_tensor(self, key: str) -> torch.Tensor:
        """θ at a key; a projection of the experts stands at the identity in θ."""
        with open_tensors(self.base) as file:
            if key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                return file.get_tensor(key)
        channels = shapes(self.files[0])[key][0]
        return torch.eye(channels)[:, :, None, None]

    def tensors(self, key: str) -> list[torch.Tensor]:
        """[τ_1, …, τ_N] at a key, float32."""
        out = []
        for path in self.files:
            with open_tensors(path) as file:
                out.append(file.get_tensor(key))
        return out


def vector_files(directory: Path) -> list[Path]:
    """The files of τ_1 … τ_N in the folder that the stages task_vector@i or finetune_rival@name fill, in that order.

    Raises:
        InputError: there is none, or one between the first and the last is missing.
    """
    found = {int(file.stem) for file in directory.glob("*.safetensors") if file.stem.isdigit()}
    if not found or found != set(range(1, len(found) + 1)):
        raise InputError(f"{directory}: task vectors {sorted(found)} are not 1, 2, … without a gap; run `dvc repro`")
    return [directory / f"{i}.safetensors" for i in sorted(found)]


def write_task_vector(base_dir: Path, expert_dir: Path, out: Path) -> None:
    """τ = θ_i − θ in float32, one tensor at a time.

    A projection that did not fold (placement `released`) stands at the identity in θ: τ_W = W − I.

    Raises:
        InputError: keys or shapes differ, or the expert was finetuned from another θ.
    """
    base, expert = weights_file(base_dir), weights_file(expert_dir)
    base_hash, recipe = weights_hash(base), read_recipe(expert)
    if recipe.get("base_sha256") != base_hash:
        raise InputError(
            f"{expert} was finetuned from another base model (θ {str(recipe.get('base_sha256'))[:12]}, not"
            f" {base_hash[:12]} of {base}); finetune it again"
        )
    layout = shapes(expert)
    stay = set(projection_keys(layout))
    check_same_layout({k: v for k, v in layout.items() if k not in stay}, shapes(base), str(expert), str(base))
    with open_tensors(base) as theta, open_tensors(expert) as theta_i:

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


def cosines(vectors: list[Mapping[str, torch.Tensor]]) -> Any:
    """Cosine similarity of every pair of task vectors, float64 [N, N] (the paper's Fig. 8)."""
    flat = torch.stack([torch.cat([v[k].double().flatten() for k in sorted(v)]) for v in vectors])
    flat = torch.nn.functional.normalize(flat, dim=1)
    return (flat @ flat.T).numpy()
