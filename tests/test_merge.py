"""The merge θ + Σ w_i τ_i: exact at its corners, linear between them, and a complete diffusers pipeline."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    REPOSITORY,
    N,
    files_of,
    lies_in,
    peak_bytes,
    python,
    search_result,
    write_experts,
    write_pipeline,
    write_vectors,
)
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from deme_core.checkpoints import WEIGHTS, build_denoiser, load_denoiser
from deme_core.errors import InputError
from deme_core.merging.merge import check_weights, write_merged
from deme_core.merging.methods import MergeParams, merge_tensor
from deme_core.projection import insert_projections, projection_keys
from deme_core.search.objective import MergedModel
from deme_core.tensors import read_recipe, read_tensors, weights_hash, write_tensors

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(7))


def merged_tensors(pipeline: Path, vectors: list[Path], weights: list[float], out: Path) -> dict[str, torch.Tensor]:
    write_merged(pipeline, vectors, weights, out, {})
    return read_tensors(out / "unet" / WEIGHTS)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


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


# The stage

SECTION = {"method": "ties", "density": 0.5, "seed": 0, "blocks": {}, "dtype": "float16"}


@pytest.fixture
def stage(
    pipeline: Path, vectors: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """The stage in an empty folder; gives its merge.json."""
    monkeypatch.syspath_prepend(REPOSITORY)
    main = importlib.import_module("stages.merge").main
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(json.dumps({"merge": SECTION}))
    search_result([0.25, 0.5]).write(Path("result.json"))

    def stage(*args: str) -> dict[str, Any]:
        command = ["merge", "--pretrained", str(pipeline), "--vectors", str(vectors[0].parent), "--out", "out", *args]
        monkeypatch.setattr(sys, "argv", command)
        main()
        return json.loads(Path("out/merge.json").read_text())

    return stage


def test_the_stage_without_params_is_task_arithmetic(stage: Callable[..., dict[str, Any]]) -> None:
    uniform, searched = stage(), stage("--search", "result.json")
    assert [recipe["method"] for recipe in (uniform, searched)] == ["task_arithmetic"] * 2
    assert (uniform["weights"], uniform["search"]) == ([0.5, 0.5], None)
    assert searched["weights"] == [0.25, 0.5]
    assert searched["search"] == json.loads(Path("result.json").read_text())
    assert not {"note", "density"} & (uniform.keys() | searched.keys())


def test_the_stage_merges_by_its_section_and_says_what_the_search_was_for(
    stage: Callable[..., dict[str, Any]], pipeline: Path, vectors: list[Path]
) -> None:
    recipe = stage("--search", "result.json", "--params", "merge")
    note = "The weights of the search were found for task_arithmetic, not for ties."
    assert (recipe["method"], recipe["density"], recipe["dtype"], recipe["note"]) == ("ties", 0.5, "float16", note)
    assert recipe["weights"] == [0.25, 0.5]
    assert f"\n{note}\n" in Path("out/README.md").read_text()
    write_merged(pipeline, vectors, [0.25, 0.5], Path("again"), {}, MergeParams(**SECTION))
    assert weights_hash(Path("out/unet") / WEIGHTS) == weights_hash(Path("again/unet") / WEIGHTS)


def test_the_stage_gives_every_block_the_weights_that_the_search_found_for_it(
    stage: Callable[..., dict[str, Any]], pipeline: Path, vectors: list[Path]
) -> None:
    blocks = MergedModel(pipeline, vectors, per_block=True).blocks
    weights = [0.25 * k for k in range(2 * len(blocks))]
    search_result(weights, blocks).write(Path("result.json"))
    recipe = stage("--search", "result.json")
    assert recipe["method"] == "per_block"
    assert recipe["blocks"] == {block: weights[2 * b : 2 * b + 2] for b, block in enumerate(blocks)}
    assert recipe["weights"] == [np.mean(weights[::2]), np.mean(weights[1::2])]
    own = MergedModel(pipeline, vectors, per_block=True).at(weights).state_dict()
    merged = read_tensors(Path("out/unet") / WEIGHTS)
    assert all(torch.equal(own[key], merged[key]) for key in own)
    assert len(blocks) > 2 and "rest" in blocks


@pytest.mark.parametrize("placement", ["none", "released"])
def test_the_tensors_of_a_search_are_maps_that_its_processes_share(
    placement: str, pipeline: Path, tmp_path: Path
) -> None:
    vectors = write_vectors(pipeline, write_experts(pipeline, tmp_path / "experts", placement), tmp_path / "vectors")
    model, base = MergedModel(pipeline, vectors), pipeline / "unet" / WEIGHTS
    theta = read_tensors(base)
    assert {key for key in model.theta if not lies_in(model.theta[key], base)} == set(model.theta) - set(theta)
    for i, file in enumerate(vectors):
        tau = read_tensors(file)
        assert model.taus.keys() == tau.keys()
        assert all(lies_in(model.taus[key][i], file) and torch.equal(model.taus[key][i], tau[key]) for key in tau)
    size, before = base.stat().st_size, torch.cat([theta[key].flatten() for key in sorted(theta)])
    assert peak_bytes(lambda: MergedModel(pipeline, vectors)) < 3 * size  # the model, while its file is read
    model.at([1.0, -0.5])
    assert torch.equal(before, torch.cat([model.theta[key].flatten() for key in sorted(theta)]))


def test_a_base_in_shards_gives_the_same_merged_model(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    sharded = Path(shutil.copytree(pipeline, tmp_path / "sharded"))
    (sharded / "unet" / WEIGHTS).unlink()
    DiffusionPipeline.from_pretrained(pipeline).unet.save_pretrained(sharded / "unet", max_shard_size="10KB")
    shards = sorted((sharded / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    model = MergedModel(sharded, vectors)
    assert all(sum(lies_in(value, shard) for shard in shards) == 1 for value in model.theta.values())
    whole = MergedModel(pipeline, vectors).at([0.3, -0.7]).state_dict()
    assert all(same_bits(value, whole[key]) for key, value in model.at([0.3, -0.7]).state_dict().items())


def test_the_stage_takes_no_searched_weights_for_a_soup(stage: Callable[..., dict[str, Any]]) -> None:
    Path("params.yaml").write_text(json.dumps({"merge": SECTION | {"method": "uniform_soup", "dtype": None}}))
    recipe = stage("--search", "result.json", "--params", "merge")
    assert (recipe["method"], recipe["weights"]) == ("uniform_soup", [0.5, 0.5])


# Placement `released`


@torch.no_grad()
def test_released_projections_are_merged_first_and_folded_after(pipeline: Path, tmp_path: Path) -> None:
    experts = write_experts(pipeline, tmp_path / "experts", "released")
    vectors = write_vectors(pipeline, experts, tmp_path / "vectors")
    weights = [0.75, -0.5]
    merged = merged_tensors(pipeline, vectors, weights, tmp_path / "merged")

    theta, thetas = read_tensors(pipeline / "unet" / WEIGHTS), [read_tensors(e / WEIGHTS) for e in experts]
    unfolded = {}
    for key in thetas[0]:
        start = theta.get(key, torch.eye(len(thetas[0][key]))[:, :, None, None]).double()
        unfolded[key] = start + sum(w * (t[key].double() - start) for w, t in zip(weights, thetas, strict=True))
    by_hand = build_denoiser(json.loads((pipeline / "unet" / "config.json").read_text())).double().eval()
    insert_projections(by_hand, "released")
    by_hand.load_state_dict(unfolded)

    stay = projection_keys(merged)
    assert stay == [key for key in projection_keys(unfolded) if key in merged]
    assert 0 < len(stay) < len(projection_keys(unfolded))  # some fold, some stay
    assert merged.keys() - set(stay) == theta.keys()
    for key in stay:
        torch.testing.assert_close(merged[key].double(), unfolded[key], rtol=1e-6, atol=1e-7)

    loaded = load_denoiser(tmp_path / "merged" / "unet")
    expected = by_hand(X.double(), 300).sample
    torch.testing.assert_close(loaded(X, 300).sample.double(), expected, rtol=1e-4, atol=1e-5)
    plain = load_denoiser(pipeline / "unet")
    assert (plain(X, 300).sample.double() - expected).abs().max() > 1e-2


@torch.no_grad()
def test_released_with_weights_0_computes_what_the_base_computes(pipeline: Path, tmp_path: Path) -> None:
    vectors = write_vectors(pipeline, write_experts(pipeline, tmp_path / "e", "released"), tmp_path / "v")
    merged = merged_tensors(pipeline, vectors, [0.0, 0.0], tmp_path / "merged")
    for key, value in read_tensors(pipeline / "unet" / WEIGHTS).items():
        assert same_bits(merged[key], value)
    loaded, plain = load_denoiser(tmp_path / "merged" / "unet"), load_denoiser(pipeline / "unet")
    assert torch.equal(loaded(X, 300).sample, plain(X, 300).sample)


# What is refused


@pytest.mark.parametrize("weights", [[], [0.5], [0.5, 0.5, 0.5], [0.5, float("nan")], [float("inf"), 0.5]])
def test_a_merge_needs_one_finite_weight_a_vector(
    pipeline: Path, vectors: list[Path], tmp_path: Path, weights: list[float]
) -> None:
    with pytest.raises(InputError, match="a merge of 2 task vectors needs 2 finite numbers"):
        write_merged(pipeline, vectors, weights, tmp_path / "merged", {})
    assert not (tmp_path / "merged").exists()


def test_check_weights_accepts_negative_and_large_ones() -> None:
    check_weights([-3.0, 1e6], 2)


def test_vectors_of_another_base_are_refused_before_anything_is_written(vectors: list[Path], tmp_path: Path) -> None:
    other = write_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="task vector of another base model"):
        write_merged(other, vectors, [0.5, 0.5], tmp_path / "merged", {})
    assert not (tmp_path / "merged").exists()


def test_a_base_changed_after_the_vectors_were_made_is_refused(
    pipeline_copy: Path, vectors: list[Path], tmp_path: Path
) -> None:
    file = pipeline_copy / "unet" / WEIGHTS
    tensors = read_tensors(file)
    tensors["conv_in.bias"] += 1e-3
    write_tensors(file, tensors)
    with pytest.raises(InputError, match="task vector of another base model"):
        write_merged(pipeline_copy, vectors, [0.5, 0.5], tmp_path / "merged", {})


def test_a_missing_vector_is_named(pipeline: Path, vectors: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3\.safetensors: no such file"):
        write_merged(pipeline, [*vectors, tmp_path / "3.safetensors"], [0.5, 0.5, 0.5], tmp_path / "merged", {})
