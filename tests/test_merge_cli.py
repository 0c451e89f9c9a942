"""`python -m deme_core.merging`: any experts, any shards, replay, verification, and one line for each bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of
from diffusers import DiffusionPipeline, UNet2DModel
from merge_command import Merge, foreign

from deme_core.checkpoints import WEIGHTS, load_denoiser, weights_file
from deme_core.errors import InputError
from deme_core.merging import __main__ as cli
from deme_core.merging import merge
from deme_core.merging.methods import METHODS, MergeParams
from deme_core.tensors import read_recipe, read_tensors, shapes, weights_hash, write_tensors


def in_memory(
    pipeline: Path, experts: list[Path], method: str, weights: list[float], **options: Any
) -> dict[str, torch.Tensor]:
    """Everything in memory at once, whole tensors, by the method's function."""
    theta, thetas = read_tensors(pipeline / "unet" / WEIGHTS), [read_tensors(e / WEIGHTS) for e in experts]
    row, params = METHODS[method], MergeParams(method=method, **options)
    return {
        key: row.merge(value.flatten(), [(t[key] - value).flatten() for t in thetas], weights, params, key).reshape(
            value.shape
        )
        for key, value in theta.items()
    }


# What is written


@pytest.mark.parametrize(
    ("method", "args", "options"),
    [
        ("task_arithmetic", [], {}),
        ("ties", ["--density", "0.3"], {"density": 0.3}),
        ("dare", ["--density", "0.3", "--seed", "5"], {"density": 0.3, "seed": 5}),
        ("per_block", ["--block", "mid_block", "0.1", "-2"], {"blocks": {"mid_block": [0.1, -2.0]}}),
    ],
)
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_a_streamed_merge_equals_the_one_in_memory(
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, method: str, args: list[str], options: dict, piece: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(merge, "PIECE", piece)
    run_merge(*base_and_experts, "--weights", "0.3", "0.7", "--method", method, *args, "--out", tmp_path / "out")
    written = read_tensors(tmp_path / "out" / "unet" / WEIGHTS)
    expected = in_memory(pipeline, experts, method, [0.3, 0.7], **options)
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(written[key], value), key


def test_without_weights_and_as_a_soup_it_is_the_mean(
    run_merge: Merge, base_and_experts: list, experts: list[Path], tmp_path: Path
) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "a")
    run_merge(*base_and_experts, "--method", "uniform_soup", "--out", tmp_path / "b")
    assert weights_hash(tmp_path / "a/unet" / WEIGHTS) == weights_hash(tmp_path / "b/unet" / WEIGHTS)
    thetas = [read_tensors(expert / WEIGHTS) for expert in experts]
    for key, value in read_tensors(tmp_path / "a/unet" / WEIGHTS).items():
        torch.testing.assert_close(value, sum(theta[key] for theta in thetas) / 2, rtol=1e-6, atol=1e-7)


def test_merge_json_says_how_and_of_what(
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run_merge(
        *base_and_experts, "--method", "ties", "--density", "0.5", "--weights", "0.3", "0.7", "--out", tmp_path / "out"
    )
    text, weights = (tmp_path / "out" / "merge.json").read_text(), tmp_path / "out/unet" / WEIGHTS
    assert json.loads(text) == {
        "method": "ties", "density": 0.5, "weights": [0.3, 0.7], "dtype": "float32", "max_shard_size": None,
        "base_sha256": weights_hash(pipeline / "unet" / WEIGHTS),
        "experts_sha256": [weights_hash(expert / WEIGHTS) for expert in experts],
        "output_sha256": weights_hash(weights),
    }  # fmt: skip
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert read_recipe(weights) == json.loads(text)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- method: TIES (Yadav et al. 2023, arXiv 2306.01708)\n- weights w: 0.3, 0.7\n- density: 0.5\n" in card
    assert str(tmp_path) not in text + card


def test_experts_of_anyone_are_merged(run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    other = foreign(experts[0], tmp_path / "foreign")
    whole = Path(shutil.copytree(pipeline, tmp_path / "whole"))
    write_tensors(whole / "unet" / WEIGHTS, read_tensors(experts[1] / WEIGHTS))
    run_merge("--base", pipeline, "--experts", other, whole, "--weights", 0.3, 0.7, "--out", tmp_path / "a")
    run_merge("--base", pipeline, "--experts", *experts, "--weights", 0.3, 0.7, "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_plain_unet_gives_a_plain_unet(run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    run_merge("--base", pipeline / "unet", "--experts", *experts, "--weights", 1, 0, "--out", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", WEIGHTS, "merge.json", "README.md"}
    model = UNet2DModel.from_pretrained(tmp_path / "out")
    for key, value in load_denoiser(experts[0]).state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=1e-6)
    assert "UNet2DModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_of_the_output(
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path, dtype: str
) -> None:
    run_merge(*base_and_experts, "--weights", 0.3, 0.7, "--dtype", dtype, "--out", tmp_path / "out")
    expected = in_memory(pipeline, experts, "task_arithmetic", [0.3, 0.7])
    for key, value in read_tensors(tmp_path / "out/unet" / WEIGHTS).items():
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value, expected[key].to(value.dtype))


def test_half_precision_inputs_are_summed_in_float32(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    for name, source in (("base", pipeline / "unet"), ("e", experts[0])):
        shutil.copytree(source, tmp_path / name)
        half = {key: value.half() for key, value in read_tensors(source / WEIGHTS).items()}
        write_tensors(tmp_path / name / WEIGHTS, half)
    args = ["--base", tmp_path / "base", "--experts", tmp_path / "e", tmp_path / "e", "--weights", 0.3, 0.4]
    run_merge(*args, "--out", tmp_path / "half")
    run_merge(*args, "--out", tmp_path / "full", "--dtype", "float32")
    half, full = (read_tensors(tmp_path / name / WEIGHTS) for name in ("half", "full"))
    theta, theta_1 = (read_tensors(tmp_path / name / WEIGHTS) for name in ("base", "e"))
    for key, value in full.items():
        tau = theta_1[key].float() - theta[key].float()
        torch.testing.assert_close(value, theta[key].float() + 0.3 * tau + 0.4 * tau, rtol=0, atol=1e-7)
        assert half[key].dtype == torch.float16
        assert torch.equal(half[key], value.half())
    assert any(not torch.equal(value, value.half().float()) for value in full.values())


def test_a_value_that_overflows_the_dtype_is_refused(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    large = foreign(experts[0], tmp_path / "large", **{"conv_in.bias": torch.full((4,), 1e5)})
    with pytest.raises(InputError, match=r"'conv_in.bias' overflows torch.float16 in the merged model: write a wider"):
        run_merge("--base", pipeline, "--experts", large, "--dtype", "float16", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Shards


def test_shards_in_and_out_equal_one_file(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    DiffusionPipeline.from_pretrained(pipeline).unet.save_pretrained(base / "unet", max_shard_size="10KB")
    expert = tmp_path / "expert"
    UNet2DModel.from_pretrained(experts[0]).save_pretrained(expert, max_shard_size="15KB")
    (base / "unet" / WEIGHTS).unlink()
    shutil.copyfile(pipeline / "unet" / "config.json", base / "unet" / "config.json")
    assert weights_file(base / "unet").name == f"{WEIGHTS}.index.json"
    assert len(list(expert.glob("*.safetensors"))) > 2

    rest = ["--weights", 0.3, 0.7, "--out"]
    run_merge("--base", base, "--experts", expert, experts[1], *rest, tmp_path / "one")
    run_merge("--base", pipeline, "--experts", *experts, *rest, tmp_path / "plain")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "plain")

    run_merge("--base", base, "--experts", expert, experts[1], "--max-shard-size", "12KB", *rest, tmp_path / "many")
    files = sorted((tmp_path / "many/unet").glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        assert sum(4 * torch.Size(shape).numel() for shape in shapes(file).values()) <= 12_000 or len(shapes(file)) == 1
        assert read_recipe(file) == json.loads((tmp_path / "many/merge.json").read_text())
    many, one = (weights_file(tmp_path / name / "unet") for name in ("many", "one"))
    assert weights_hash(many) == weights_hash(one)
    stock, ours = DiffusionPipeline.from_pretrained(tmp_path / "many").unet.state_dict(), read_tensors(one)
    assert all(torch.equal(stock[key], ours[key]) for key in ours)
    assert load_denoiser(tmp_path / "many/unet").state_dict().keys() == ours.keys()


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("10KB", 10_000), ("7", 7)])
def test_sizes_count_as_in_diffusers(text: str, size: int) -> None:
    assert cli._bytes(text) == size
