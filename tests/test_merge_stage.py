"""The stage merge, the placement `released`, and what is refused."""

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
    lies_in,
    peak_bytes,
    reads_proc,
    search_result,
    write_experts,
    write_pipeline,
    write_vectors,
)
from conftest import stage as run_stage
from diffusers import DiffusionPipeline
from merged_models import merged_tensors, same_bits

from deme_core.checkpoints import WEIGHTS, build_denoiser, load_denoiser
from deme_core.errors import InputError
from deme_core.merging.merge import check_weights, write_merged
from deme_core.merging.methods import MergeParams
from deme_core.projection import insert_projections, projection_keys
from deme_core.search.objective import MergedModel
from deme_core.tensors import read_tensors, weights_hash, write_tensors

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(7))


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
    expected = MergedModel(pipeline, vectors, per_block=True, dtype=torch.float16).at(weights).state_dict()
    merged = read_tensors(Path("out/unet") / WEIGHTS)
    assert all(torch.equal(expected[key], merged[key].float()) for key in expected)
    assert len(blocks) > 2 and "rest" in blocks


@reads_proc
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


@reads_proc
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


# The dtype of merges


@pytest.fixture
def half_base(pipeline_copy: Path) -> Path:
    """θ in bfloat16."""
    file = pipeline_copy / "unet" / WEIGHTS
    write_tensors(file, {key: value.bfloat16() for key, value in read_tensors(file).items()})
    return pipeline_copy


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_every_merge_of_a_run_is_written_in_the_dtype_of_the_section(
    dtype: str | None, half_base: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small step on a base in bfloat16, which is mostly lost where the merge is rounded to that, too."""
    theta = read_tensors(half_base / "unet" / WEIGHTS)
    for i in (1, 2):
        tau = {key: torch.full(value.shape, i * 1e-4) for key, value in theta.items()}
        made_from = {"base_sha256": weights_hash(half_base / "unet" / WEIGHTS)}
        write_tensors(empty_folder / "vectors" / f"{i}.safetensors", tau, made_from)
    params = {"merge": SECTION | {"method": "dare", "dtype": dtype}, "away": {"w": 0.5}}
    Path("params.yaml").write_text(json.dumps(params))
    search_result([0.25, 0.5]).write(Path("result.json"))
    folders = ("--pretrained", half_base, "--vectors", "vectors", "--out")
    run = lambda name, *arguments: run_stage(name, *arguments, monkeypatch=monkeypatch)  # noqa: E731
    run("merge", *folders, "uniform")
    run("merge", *folders, "searched", "--search", "result.json")
    run("merge_away", "--pretrained", half_base, "--own", "vectors", "--out", "away")
    for name, step in (("uniform", 1.5e-4), ("searched", 1.25e-4), ("away", -0.75e-4)):
        merged = read_tensors(Path(name) / "unet" / WEIGHTS)
        for key, value in theta.items():
            if dtype is None:
                assert merged[key].dtype == torch.bfloat16
            else:
                torch.testing.assert_close(merged[key], value.float() + step, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("placement", ["none", "released"])
def test_a_search_works_on_the_model_that_a_merge_writes(
    placement: str, dtype: str | None, half_base: Path, tmp_path: Path
) -> None:
    experts = write_experts(half_base, tmp_path / "experts", placement)
    vectors = write_vectors(half_base, experts, tmp_path / "vectors")
    params = MergeParams(dtype=dtype)
    write_merged(half_base, vectors, [0.3, -0.7], tmp_path / "merged", {}, params)
    written = read_tensors(tmp_path / "merged" / "unet" / WEIGHTS)
    found = MergedModel(half_base, vectors, dtype=params.written).at([0.3, -0.7]).state_dict()
    assert found.keys() == written.keys()
    assert all(torch.equal(found[key], value.float()) for key, value in written.items())


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
