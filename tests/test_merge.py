"""The merge θ + Σ w_i τ_i: exact at its corners, linear between them, and a complete diffusers pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    N,
    files_of,
    python,
)
from hypothesis import given
from hypothesis import strategies as st
from merged_models import merged_tensors, same_bits

from deme_core.checkpoints import WEIGHTS, load_denoiser
from deme_core.merging.merge import write_merged
from deme_core.merging.methods import merge_tensor
from deme_core.tensors import read_recipe, read_tensors, weights_hash


def in_float64(pipeline: Path, vectors: list[Path], weights: list[float]) -> dict[str, np.ndarray]:
    """θ + Σ w_i τ_i with numpy."""
    theta, taus = read_tensors(pipeline / "unet" / WEIGHTS), [read_tensors(file) for file in vectors]
    return {
        key: value.double().numpy() + sum(w * tau[key].double().numpy() for w, tau in zip(weights, taus, strict=True))
        for key, value in theta.items()
    }


def test_weights_0_give_the_base_bit_for_bit(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    merged = merged_tensors(pipeline, vectors, [0.0, 0.0], tmp_path / "merged")
    theta = read_tensors(pipeline / "unet" / WEIGHTS)
    assert merged.keys() == theta.keys()
    assert all(same_bits(merged[key], theta[key]) for key in theta)
    assert weights_hash(tmp_path / "merged" / "unet" / WEIGHTS) == weights_hash(pipeline / "unet" / WEIGHTS)


def test_weights_0_keep_minus_zero_and_ignore_what_tau_holds() -> None:
    theta, tau = torch.tensor([-0.0, 1.0]), torch.tensor([float("nan"), float("inf")])
    assert same_bits(merge_tensor(theta, [tau, tau], [0.0, -0.0]), theta)


@pytest.mark.parametrize("i", range(N))
def test_one_hot_weights_give_the_expert_within_one_ulp(
    pipeline: Path, experts: list[Path], vectors: list[Path], tmp_path: Path, i: int
) -> None:
    merged = merged_tensors(pipeline, vectors, [float(j == i) for j in range(N)], tmp_path / "merged")
    theta, expert = read_tensors(pipeline / "unet" / WEIGHTS), read_tensors(experts[i] / WEIGHTS)
    for key in theta:
        ulp = np.spacing(torch.maximum(theta[key].abs(), expert[key].abs()).numpy())
        assert (np.abs(merged[key].double().numpy() - expert[key].double().numpy()) <= ulp).all(), key
    assert any(not torch.equal(expert[key], theta[key]) for key in theta)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.1, 0.25], [-1.0, 2.0], [1.0, 1.0]])
def test_the_merge_is_theta_plus_the_weighted_sum(
    pipeline: Path, vectors: list[Path], tmp_path: Path, weights: list[float]
) -> None:
    merged = merged_tensors(pipeline, vectors, weights, tmp_path / "merged")
    for key, value in in_float64(pipeline, vectors, weights).items():
        np.testing.assert_allclose(merged[key].double().numpy(), value, rtol=1e-6, atol=1e-7)


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3),
    w=st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2),
    scale=st.sampled_from([-1.0, 0.5, 2.0]),
)
def test_the_merge_is_linear_in_w(values: list[float], w: list[float], scale: float) -> None:
    theta, *taus = (torch.tensor([value]) for value in values)
    moved = merge_tensor(theta, taus, w) - theta
    scaled = merge_tensor(theta, taus, [scale * weight for weight in w]) - theta
    parts = sum(merge_tensor(theta, taus, one_by_one) - theta for one_by_one in ([w[0], 0.0], [0.0, w[1]]))
    torch.testing.assert_close(scaled, scale * moved, rtol=0, atol=2e-5)
    torch.testing.assert_close(parts, moved, rtol=0, atol=2e-5)


def test_vectors_and_weights_keep_their_order(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    a = merged_tensors(pipeline, vectors, [0.5, 0.1], tmp_path / "a")
    b = merged_tensors(pipeline, vectors[::-1], [0.1, 0.5], tmp_path / "b")
    c = merged_tensors(pipeline, vectors, [0.1, 0.5], tmp_path / "c")
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-6, atol=1e-7)
        assert not torch.equal(a[key], c[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_merge_keeps_the_dtype_of_the_base_and_sums_in_float32(dtype: torch.dtype) -> None:
    theta = torch.linspace(-2, 2, 101).to(dtype)
    taus = [torch.linspace(0, 1e-3, 101), torch.linspace(1e-3, 0, 101)]
    expected = (theta.float() + 0.75 * taus[0] + 0.25 * taus[1]).to(dtype)
    assert same_bits(merge_tensor(theta, taus, [0.75, 0.25]).view(torch.int16), expected.view(torch.int16))
    assert same_bits(merge_tensor(theta, taus, [0.0, 0.0]).view(torch.int16), theta.view(torch.int16))


def test_the_same_merge_has_the_same_bytes(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    for name in "ab":
        write_merged(pipeline, vectors, [0.3, 0.7], tmp_path / name, {"search": {"score": 1.5}})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_every_other_file_of_the_base_is_kept(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    write_merged(pipeline, vectors, [0.3, 0.7], tmp_path / "merged", {})
    before, after = files_of(pipeline), files_of(tmp_path / "merged")
    assert after.keys() - before.keys() == {"merge.json", "README.md"}
    assert {name for name in before if before[name] != after[name]} == {f"unet/{WEIGHTS}"}


def test_the_recipe_stands_in_merge_json_in_the_weights_and_on_the_card(
    pipeline: Path, vectors: list[Path], tmp_path: Path
) -> None:
    write_merged(pipeline, vectors, [0.3, 0.7], tmp_path / "merged", {"search": {"score": 1.5}})
    recipe = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert (recipe["method"], recipe["weights"]) == ("task_arithmetic", [0.3, 0.7])
    assert recipe["output_sha256"] == weights_hash(tmp_path / "merged" / "unet" / WEIGHTS)
    assert recipe["base_sha256"] == weights_hash(pipeline / "unet" / WEIGHTS)
    assert recipe["vectors_sha256"] == [weights_hash(file) for file in vectors]
    assert recipe["search"] == {"score": 1.5}
    assert read_recipe(tmp_path / "merged" / "unet" / WEIGHTS) == recipe
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "0.3, 0.7" in card
    assert recipe["base_sha256"] in card


def test_diffusers_alone_loads_and_runs_the_merged_pipeline(
    pipeline: Path, vectors: list[Path], tmp_path: Path
) -> None:
    write_merged(pipeline, vectors, [0.3, 0.7], tmp_path / "merged", {})
    code = """
import sys
sys.modules["deme_core"] = None  # any import of it fails
import torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
merged, base = (DiffusionPipeline.from_pretrained(path) for path in sys.argv[1:])
layout = lambda model: [(key, tuple(value.shape), value.dtype) for key, value in model.state_dict().items()]
assert layout(merged.unet) == layout(base.unet)
assert merged.unet.num_parameters() == base.unet.num_parameters() > 5_000
assert type(merged) is type(base) and merged.scheduler.config == base.scheduler.config
assert not torch.equal(merged.unet.conv_in.weight, base.unet.conv_in.weight)
images = merged(batch_size=2, generator=torch.manual_seed(0), num_inference_steps=2, output_type="np").images
assert images.shape == (2, 8, 8, 1)
with torch.no_grad():
    print(merged.unet(torch.ones(1, 1, 8, 8), 500).sample.sum().item())
"""
    run = python(code, tmp_path / "merged", pipeline)
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        ours = load_denoiser(tmp_path / "merged" / "unet")(torch.ones(1, 1, 8, 8), 500).sample.sum().item()
    assert float(run.stdout) == pytest.approx(ours, rel=1e-5)
