"""Task vectors: τ = θ_i − θ exactly, bound to the θ they were made from."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import peak_bytes, write_expert, write_experts, write_pipeline, write_vectors
from diffusers import UNet2DModel

from deme_core.checkpoints import WEIGHTS, load_denoiser, save_denoiser
from deme_core.errors import InputError
from deme_core.merging.task_vectors import TaskVectors, cosines, vector_files, write_task_vector
from deme_core.projection import projection_keys
from deme_core.tensors import read_recipe, read_tensors, shapes, weights_hash, write_tensors


def test_a_task_vector_is_the_difference_exactly(pipeline: Path, experts: list[Path], vectors: list[Path]) -> None:
    theta = read_tensors(pipeline / "unet" / WEIGHTS)
    for expert, file in zip(experts, vectors, strict=True):
        theta_i, tau = read_tensors(expert / WEIGHTS), read_tensors(file)
        assert tau.keys() == theta.keys()
        for key in theta:
            assert tau[key].dtype == torch.float32
            assert torch.equal(tau[key], theta_i[key] - theta[key])
            assert tau[key].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_difference_of_half_precision_weights_is_formed_in_float32(
    pipeline_copy: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = pipeline_copy / "unet" / WEIGHTS
    half = {key: value.to(dtype) for key, value in read_tensors(base).items()}
    write_tensors(base, half)
    moved = {key: value * 1.01 for key, value in half.items()}
    save_denoiser(tmp_path / "expert", base.parent, moved, {"base_sha256": weights_hash(base)})
    write_task_vector(base.parent, tmp_path / "expert", tmp_path / "tau")
    for key, tau in read_tensors(tmp_path / "tau").items():
        assert torch.equal(tau, moved[key].float() - half[key].float())


def test_the_metadata_say_what_the_vector_was_made_of(pipeline: Path, experts: list[Path], vectors: list[Path]) -> None:
    for i, (expert, file) in enumerate(zip(experts, vectors, strict=True), 1):
        recipe = read_recipe(file)
        assert recipe["base_sha256"] == weights_hash(pipeline / "unet" / WEIGHTS)
        assert recipe["expert_sha256"] == weights_hash(expert / WEIGHTS)
        assert recipe["range"] == i


def test_the_same_vector_has_the_same_bytes(
    pipeline: Path, experts: list[Path], vectors: list[Path], tmp_path: Path
) -> None:
    write_task_vector(pipeline / "unet", experts[0], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == vectors[0].read_bytes()


def test_vector_files_stand_in_the_order_of_the_ranges(tmp_path: Path) -> None:
    expected = [tmp_path / f"{i}.safetensors" for i in range(1, 12)]
    for file in reversed(expected):
        file.touch()
    (tmp_path / "1").mkdir()  # a denoiser, beside the vectors of a baseline
    (tmp_path / "notes.safetensors").touch()
    assert vector_files(tmp_path) == expected


@pytest.mark.parametrize(
    ("found", "named"), [([], "[]"), ([2, 3], "[2, 3]"), ([1, 3], "[1, 3]"), ([0, 1], "[0, 1]"), ([11, 1], "[1, 11]")]
)
def test_a_folder_that_lacks_a_vector_is_refused(tmp_path: Path, found: list[int], named: str) -> None:
    for i in found:
        (tmp_path / f"{i}.safetensors").touch()
    message = f"{tmp_path}: task vectors {named} are not 1, 2, … without a gap; run `dvc repro`"
    with pytest.raises(InputError, match=re.escape(message)):
        vector_files(tmp_path)


def test_a_projection_that_stays_is_counted_from_the_identity(pipeline: Path, tmp_path: Path) -> None:
    expert = write_expert(pipeline, tmp_path / "1", seed=1, placement="released")
    write_task_vector(pipeline / "unet", expert, tmp_path / "tau")
    theta_i, tau = read_tensors(expert / WEIGHTS), read_tensors(tmp_path / "tau")
    keys = projection_keys(tau)
    assert len(keys) == 5
    for key in keys:
        assert torch.equal(tau[key], theta_i[key] - torch.eye(len(theta_i[key]))[:, :, None, None])


def test_vectors_are_read_beside_their_base(pipeline: Path, vectors: list[Path]) -> None:
    opened = TaskVectors.open(pipeline / "unet", vectors)
    theta = read_tensors(pipeline / "unet" / WEIGHTS)
    base, taus = opened.mapped()
    assert opened.keys() == list(base) == list(taus) == sorted(theta)
    for key, value in theta.items():
        assert torch.equal(opened.base_tensor(key), value) and torch.equal(base[key], value)
        for tau, file in zip(taus[key], vectors, strict=True):
            assert torch.equal(tau, read_tensors(file)[key])


def test_the_base_of_a_projection_is_the_identity(pipeline: Path, tmp_path: Path) -> None:
    experts = write_experts(pipeline, tmp_path / "experts", "released")
    opened = TaskVectors.open(pipeline / "unet", write_vectors(pipeline, experts, tmp_path / "vectors"))
    keys = opened.keys()
    theta = sorted(shapes(pipeline / "unet" / WEIGHTS))
    assert keys[: len(theta)] == theta
    assert keys[len(theta) :] == sorted(projection_keys(keys))
    assert torch.equal(opened.base_tensor("mid_block.projection.weight")[:, :, 0, 0], torch.eye(8))


# What is refused


def test_an_expert_of_another_base_is_refused(experts: list[Path], tmp_path: Path) -> None:
    other = write_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"was finetuned from another base model .* finetune it again"):
        write_task_vector(other / "unet", experts[0], tmp_path / "tau")
    assert not (tmp_path / "tau").exists()


def test_an_expert_without_a_recipe_is_refused(pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    shutil.copytree(experts[0], tmp_path / "expert")
    write_tensors(tmp_path / "expert" / WEIGHTS, read_tensors(experts[0] / WEIGHTS))
    with pytest.raises(InputError, match="another base model"):
        write_task_vector(pipeline / "unet", tmp_path / "expert", tmp_path / "tau")


def test_an_expert_of_another_architecture_is_refused(pipeline: Path, tmp_path: Path) -> None:
    wide = UNet2DModel.from_config(load_denoiser(pipeline / "unet").config | {"block_out_channels": (4, 12)})
    recipe = {"base_sha256": weights_hash(pipeline / "unet" / WEIGHTS)}
    save_denoiser(tmp_path / "expert", pipeline / "unet", wide.state_dict(), recipe)
    with pytest.raises(InputError, match=r"are different architectures: '\S+' has shape \["):
        write_task_vector(pipeline / "unet", tmp_path / "expert", tmp_path / "tau")
    assert not (tmp_path / "tau").exists()


def test_an_expert_that_lacks_a_tensor_is_refused(pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    state_dict = read_tensors(experts[0] / WEIGHTS)
    del state_dict["conv_in.bias"]
    save_denoiser(tmp_path / "expert", experts[0], state_dict, read_recipe(experts[0] / WEIGHTS))
    with pytest.raises(InputError, match=r"has 'conv_in\.bias', .* has not"):
        write_task_vector(pipeline / "unet", tmp_path / "expert", tmp_path / "tau")


def test_vectors_of_another_base_are_refused(vectors: list[Path], tmp_path: Path) -> None:
    other = write_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"1\.safetensors is a task vector of another base model"):
        TaskVectors.open(other / "unet", vectors)


def test_a_file_that_is_no_task_vector_is_refused(pipeline: Path) -> None:
    with pytest.raises(InputError, match="is a task vector of another base model"):
        TaskVectors.open(pipeline / "unet", [pipeline / "unet" / WEIGHTS])


@pytest.mark.parametrize("change", [{"conv_in.bias": None}, {"conv_in.bias": torch.zeros(5)}, {"new": torch.zeros(1)}])
def test_vectors_of_another_layout_are_refused(
    pipeline: Path, vectors: list[Path], tmp_path: Path, change: dict[str, torch.Tensor | None]
) -> None:
    changed = {key: value for key, value in (read_tensors(vectors[0]) | change).items() if value is not None}
    write_tensors(tmp_path / "tau", changed, read_recipe(vectors[0]))
    with pytest.raises(InputError, match="different architectures"):
        TaskVectors.open(pipeline / "unet", [vectors[0], tmp_path / "tau"])


def test_vectors_with_and_without_projections_do_not_mix(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    released = write_expert(pipeline, tmp_path / "1", seed=1, placement="released")
    write_task_vector(pipeline / "unet", released, tmp_path / "tau")
    with pytest.raises(InputError):
        TaskVectors.open(pipeline / "unet", [tmp_path / "tau", vectors[1]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_expert_that_is_not_finite_is_refused(
    pipeline: Path, experts: list[Path], tmp_path: Path, value: float
) -> None:
    state_dict = read_tensors(experts[0] / WEIGHTS)
    state_dict["conv_in.bias"][0] = value
    save_denoiser(tmp_path / "expert", experts[0], state_dict, read_recipe(experts[0] / WEIGHTS))
    with pytest.raises(InputError, match=r"conv_in\.bias"):
        write_task_vector(pipeline / "unet", tmp_path / "expert", tmp_path / "tau")


def test_cosines_are_those_of_the_vectors_laid_end_to_end(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [
        {"b": torch.randn(70_001, 2, generator=generator), "a": torch.randn(4, generator=generator)} for _ in range(3)
    ]
    vectors.append({key: -2 * value for key, value in reversed(vectors[0].items())})
    flat = np.stack([np.concatenate([v["a"].numpy(), v["b"].numpy().ravel()]) for v in vectors]).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    expected = flat @ flat.T / np.outer(norms, norms)
    np.testing.assert_allclose(cosines(written(tmp_path, vectors)), expected, rtol=0, atol=1e-12)
    assert expected[0, 3] == pytest.approx(-1)


def test_a_vector_of_zeros_is_orthogonal_to_all(tmp_path: Path) -> None:
    files = written(tmp_path, [{"a": torch.zeros(3)}, {"a": torch.ones(3)}])
    np.testing.assert_allclose(cosines(files), [[0, 0], [0, 1]], rtol=0, atol=1e-12)


def test_cosines_of_vectors_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="different architectures"):
        cosines(written(tmp_path, [{"a": torch.ones(3)}, {"a": torch.ones(3), "b": torch.ones(1)}]))


@pytest.mark.parametrize("N", [2, 4])
def test_cosines_take_the_memory_of_a_tensor_of_each_vector(N: int, tmp_path: Path) -> None:
    largest = 300_000
    files = written(tmp_path, [{f"{k:02}": torch.full((largest - k,), 1.0 + i) for k in range(10)} for i in range(N)])
    assert peak_bytes(lambda: cosines(files)) < N * 4 * largest + 10**5


def written(directory: Path, vectors: list[dict[str, torch.Tensor]]) -> list[Path]:
    files = [directory / f"{i}.safetensors" for i in range(1, len(vectors) + 1)]
    for file, vector in zip(files, vectors, strict=True):
        write_tensors(file, vector)
    return files
