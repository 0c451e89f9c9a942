"""`python -m deme_core.merging`: any experts, any shards, replay, verification, and one line for each bad input."""

import json
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of, never, python, write_expert
from diffusers import DiffusionPipeline, UNet2DModel

from deme_core.checkpoints import WEIGHTS, load_denoiser, weights_file
from deme_core.errors import InputError
from deme_core.merging import __main__ as cli
from deme_core.merging import hashing, merge
from deme_core.merging.hashing import AHEAD, HashedTensors
from deme_core.merging.methods import METHODS, MergeParams
from deme_core.merging.output import atomic_folder
from deme_core.tensors import read_recipe, read_tensors, shapes, weights_hash, write_tensors

Merge = Callable[..., None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Merge:
    """The command, in this process."""

    def run(*args: object) -> None:
        monkeypatch.setattr(sys, "argv", ["deme_core.merging", *map(str, args)])
        cli.main()

    return run


@pytest.fixture
def given(pipeline: Path, experts: list[Path]) -> list[object]:
    return ["--base", pipeline, "--experts", *experts]


def foreign(expert: Path, folder: Path, **change: torch.Tensor) -> Path:
    """An expert of another writer: no recipe."""
    shutil.copytree(expert, folder)
    write_tensors(folder / WEIGHTS, read_tensors(expert / WEIGHTS) | change)
    return folder


def in_memory(
    pipeline: Path, experts: list[Path], method: str, weights: list[float], **own: Any
) -> dict[str, torch.Tensor]:
    """Everything in memory at once, whole tensors, by the method's function."""
    theta, thetas = read_tensors(pipeline / "unet" / WEIGHTS), [read_tensors(e / WEIGHTS) for e in experts]
    row, params = METHODS[method], MergeParams(method=method, **own)
    return {
        key: row.merge(value.flatten(), [(t[key] - value).flatten() for t in thetas], weights, params, key).reshape(
            value.shape
        )
        for key, value in theta.items()
    }


# What is written


@pytest.mark.parametrize(
    ("method", "args", "own"),
    [
        ("task_arithmetic", [], {}),
        ("ties", ["--density", "0.3"], {"density": 0.3}),
        ("dare", ["--density", "0.3", "--seed", "5"], {"density": 0.3, "seed": 5}),
        ("per_block", ["--block", "mid_block", "0.1", "-2"], {"blocks": {"mid_block": [0.1, -2.0]}}),
    ],
)
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_a_streamed_merge_equals_the_one_in_memory(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    method: str, args: list[str], own: dict, piece: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(merge, "PIECE", piece)
    run(*given, "--weights", "0.3", "0.7", "--method", method, *args, "--out", tmp_path / "out")
    written = read_tensors(tmp_path / "out" / "unet" / WEIGHTS)
    expected = in_memory(pipeline, experts, method, [0.3, 0.7], **own)
    assert written.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(written[key], value), key


def test_without_weights_and_as_a_soup_it_is_the_mean(
    run: Merge, given: list, experts: list[Path], tmp_path: Path
) -> None:
    run(*given, "--out", tmp_path / "a")
    run(*given, "--method", "uniform_soup", "--out", tmp_path / "b")
    assert weights_hash(tmp_path / "a/unet" / WEIGHTS) == weights_hash(tmp_path / "b/unet" / WEIGHTS)
    thetas = [read_tensors(expert / WEIGHTS) for expert in experts]
    for key, value in read_tensors(tmp_path / "a/unet" / WEIGHTS).items():
        torch.testing.assert_close(value, sum(theta[key] for theta in thetas) / 2, rtol=1e-6, atol=1e-7)


def test_merge_json_says_how_and_of_what(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run(*given, "--method", "ties", "--density", "0.5", "--weights", "0.3", "0.7", "--out", tmp_path / "out")
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


def test_experts_of_anyone_are_merged(run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    other = foreign(experts[0], tmp_path / "foreign")
    whole = Path(shutil.copytree(pipeline, tmp_path / "whole"))
    write_tensors(whole / "unet" / WEIGHTS, read_tensors(experts[1] / WEIGHTS))
    run("--base", pipeline, "--experts", other, whole, "--weights", 0.3, 0.7, "--out", tmp_path / "a")
    run("--base", pipeline, "--experts", *experts, "--weights", 0.3, 0.7, "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_plain_unet_gives_a_plain_unet(run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    run("--base", pipeline / "unet", "--experts", *experts, "--weights", 1, 0, "--out", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"config.json", WEIGHTS, "merge.json", "README.md"}
    model = UNet2DModel.from_pretrained(tmp_path / "out")
    for key, value in load_denoiser(experts[0]).state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=1e-6)
    assert "UNet2DModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_of_the_output(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path, dtype: str
) -> None:
    run(*given, "--weights", 0.3, 0.7, "--dtype", dtype, "--out", tmp_path / "out")
    expected = in_memory(pipeline, experts, "task_arithmetic", [0.3, 0.7])
    for key, value in read_tensors(tmp_path / "out/unet" / WEIGHTS).items():
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value, expected[key].to(value.dtype))


def test_half_precision_inputs_are_summed_in_float32(
    run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    for name, source in (("base", pipeline / "unet"), ("e", experts[0])):
        shutil.copytree(source, tmp_path / name)
        half = {key: value.half() for key, value in read_tensors(source / WEIGHTS).items()}
        write_tensors(tmp_path / name / WEIGHTS, half)
    args = ["--base", tmp_path / "base", "--experts", tmp_path / "e", tmp_path / "e", "--weights", 0.3, 0.4]
    run(*args, "--out", tmp_path / "half")
    run(*args, "--out", tmp_path / "full", "--dtype", "float32")
    half, full = (read_tensors(tmp_path / name / WEIGHTS) for name in ("half", "full"))
    theta, theta_1 = (read_tensors(tmp_path / name / WEIGHTS) for name in ("base", "e"))
    for key, value in full.items():
        tau = theta_1[key].float() - theta[key].float()
        torch.testing.assert_close(value, theta[key].float() + 0.3 * tau + 0.4 * tau, rtol=0, atol=1e-7)
        assert half[key].dtype == torch.float16
        assert torch.equal(half[key], value.half())
    assert any(not torch.equal(value, value.half().float()) for value in full.values())


def test_a_value_that_overflows_the_dtype_is_refused(
    run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    large = foreign(experts[0], tmp_path / "large", **{"conv_in.bias": torch.full((4,), 1e5)})
    with pytest.raises(InputError, match=r"'conv_in.bias' overflows torch.float16 in the merged model: write a wider"):
        run("--base", pipeline, "--experts", large, "--dtype", "float16", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Shards


def test_shards_in_and_out_equal_one_file(run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    DiffusionPipeline.from_pretrained(pipeline).unet.save_pretrained(base / "unet", max_shard_size="10KB")
    expert = tmp_path / "expert"
    UNet2DModel.from_pretrained(experts[0]).save_pretrained(expert, max_shard_size="15KB")
    (base / "unet" / WEIGHTS).unlink()
    shutil.copyfile(pipeline / "unet" / "config.json", base / "unet" / "config.json")
    assert weights_file(base / "unet").name == f"{WEIGHTS}.index.json"
    assert len(list(expert.glob("*.safetensors"))) > 2

    rest = ["--weights", 0.3, 0.7, "--out"]
    run("--base", base, "--experts", expert, experts[1], *rest, tmp_path / "one")
    run("--base", pipeline, "--experts", *experts, *rest, tmp_path / "plain")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "plain")

    run("--base", base, "--experts", expert, experts[1], "--max-shard-size", "12KB", *rest, tmp_path / "many")
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


# Killed, replayed, verified


KILL = """
import os, signal, sys
from deme_core.merging import __main__ as cli, merge
pieces, seen = merge.Merge.pieces, []
def killed(self, key):
    seen.append(key)
    if len(seen) == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return pieces(self, key)
merge.Merge.pieces = killed
sys.argv[0] = "merging"
cli.main()
"""


def test_a_killed_merge_leaves_no_output_and_the_next_one_is_whole(run: Merge, given: list, tmp_path: Path) -> None:
    out = tmp_path / "there" / "out"
    killed = python(KILL, *given, "--out", out)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    assert any(tmp_path.rglob("*.partial"))  # it had begun to write
    run(*given, "--out", out)
    run(*given, "--out", tmp_path / "undisturbed")
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_kill_between_the_renames_put_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "kept").touch()
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/kept"]


def test_an_error_half_way_keeps_what_was_there(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run(*given, "--out", tmp_path / "out")
    before = files_of(tmp_path / "out")
    broken = foreign(
        experts[0], tmp_path / "broken", **{"up_blocks.0.resnets.0.conv1.bias": torch.full((8,), torch.nan)}
    )
    with pytest.raises(InputError, match=r"broken/.*'up_blocks.0.resnets.0.conv1.bias' holds NaN or infinite values"):
        run("--base", pipeline, "--experts", broken, "--out", tmp_path / "out", "--force")
    assert files_of(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "broken"}


@pytest.mark.parametrize(
    "how",
    [
        ["--weights", "0.3", "0.7"],
        ["--method", "uniform_soup", "--dtype", "bfloat16"],
        ["--method", "ties", "--density", "0.5", "--max-shard-size", "9KB"],
        ["--method", "dare", "--density", "0.5", "--seed", "3"],
        ["--method", "per_block", "--block", "rest", "1", "0"],
    ],
)
def test_a_replay_gives_the_same_bytes(run: Merge, given: list, tmp_path: Path, how: list[str]) -> None:
    run(*given, *how, "--out", tmp_path / "a")
    run(*given, "--recipe", tmp_path / "a" / "merge.json", "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_replay_of_other_inputs_writes_nothing(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run(*given, "--out", tmp_path / "a")
    with pytest.raises(InputError, match=r"merge.json: experts_sha256 is \[.*, but these files give"):
        run(
            "--base",
            pipeline,
            "--experts",
            *experts[::-1],
            "--recipe",
            tmp_path / "a/merge.json",
            "--out",
            tmp_path / "b",
        )
    with pytest.raises(InputError, match="names 2 experts, 1 are given"):
        run("--base", pipeline, "--experts", experts[0], "--recipe", tmp_path / "a/merge.json", "--out", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "merge.json: no valid JSON"),
        ("[]", "merge.json: holds no JSON object"),
        ('{"method": "slerp"}', "it names none of the methods task_arithmetic, uniform_soup"),
        ('{"method": "ties", "weights": [1], "dtype": null}', "it lacks base_sha256, density, max_shard"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(run: Merge, given: list, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "merge.json").write_text(text)
    with pytest.raises(InputError, match=message):
        run(*given, "--recipe", tmp_path / "merge.json", "--out", tmp_path / "out")


def test_verify_accepts_what_a_merge_wrote(
    run: Merge, given: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(*given, "--out", tmp_path / "out")
    run("--verify", tmp_path / "out", *given)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["same", "output"], ["same", "base"], ["same", "expert"], ["same", "expert"],
    ]  # fmt: skip
    run("--verify", tmp_path / "out")


@pytest.mark.parametrize("which", ["output", "base", "expert"])
def test_verify_catches_one_flipped_byte(
    run: Merge, given: list, pipeline: Path, experts: list[Path], tmp_path: Path, which: str
) -> None:
    run(*given, "--out", tmp_path / "out")
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    expert = Path(shutil.copytree(experts[1], tmp_path / "expert"))
    file = {"output": tmp_path / "out/unet", "base": base / "unet", "expert": expert}[which] / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: not the {which} that merge.json names$"):
        run("--verify", tmp_path / "out", "--base", base, "--experts", experts[0], expert)


def test_verify_catches_a_changed_recipe(run: Merge, given: list, tmp_path: Path) -> None:
    run(*given, "--out", tmp_path / "out")
    file = tmp_path / "out" / "merge.json"
    file.write_text(file.read_text().replace("0.5", "0.6"))
    with pytest.raises(InputError, match=r"its metadata are not merge.json"):
        run("--verify", tmp_path / "out")


# Nothing for nothing


def test_a_dry_run_writes_nothing_and_knows_the_sizes(
    run: Merge, given: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    how = [*given, "--max-shard-size", "12KB", "--method", "ties", "--out", tmp_path / "out"]
    run(*how, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    text = capsys.readouterr().out
    run(*how)
    written = {file.name: file.stat().st_size for file in (tmp_path / "out/unet").glob("*.safetensors")}
    foretold = {name: int(size) for name, size in re.findall(r"output   (\S+) (\d+) bytes", text)}
    assert foretold == written
    assert len(written) > 1
    assert re.search(r"^inputs   \d+ kB in 3 models, \d+ tensors each$", text, re.MULTILINE)
    assert re.search(r"^memory   about \d+ MB at most$", text, re.MULTILINE)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_memory_is_a_few_tensors_whatever_n(
    run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Counted: what was read and is still alive, in the merge and in the queue of the hashes."""
    alive, most = {"read": 0, "hash": 0}, {"read": 0, "hash": 0}

    def counted(what: str, value: Any) -> Any:
        alive[what] += 1
        most[what] = max(most[what], alive[what])
        weakref.finalize(value, lambda: alive.update({what: alive[what] - 1}))
        return value

    flat, as_bytes = HashedTensors.flat, hashing.as_bytes
    monkeypatch.setattr(HashedTensors, "flat", lambda *args: counted("read", flat(*args)))
    monkeypatch.setattr(hashing, "as_bytes", lambda value: counted("hash", as_bytes(value)))
    monkeypatch.setattr(merge, "PIECE", 64)
    run("--base", pipeline, "--experts", *(4 * experts), "--method", method, "--out", tmp_path / "out")
    assert 2 <= most["read"] <= 3
    assert most["hash"] <= AHEAD + 3  # waiting, being made, and one in the hands of each thread


def test_each_input_is_read_once(run: Merge, given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[Path, str, int]] = []
    flat = merge.HashedTensors.__mro__[1].flat

    def noted(self: Any, key: str, start: int, stop: int) -> torch.Tensor:
        read.append((self.path, key, start))
        return flat(self, key, start, stop)

    monkeypatch.setattr("deme_core.tensor_files.Tensors.flat", noted)
    run(*given, "--out", tmp_path / "out")
    assert len(read) == len(set(read)) == 3 * len(shapes(tmp_path / "out/unet" / WEIGHTS))


# What is refused


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--weights", "0.5"], r"weights \[0.5\]: a merge of 2 task vectors needs 2 finite numbers"),
        (["--weights", "nan", "0.5"], "needs 2 finite numbers"),
        (["--method", "uniform_soup", "--weights", "1", "1"], r"the method uniform_soup takes none, it is w = 1/2"),
        (["--density", "0.5"], "--density: the method task_arithmetic does not read it"),
        (["--method", "ties", "--seed", "1"], "--seed: the method ties does not read it"),
        (["--method", "ties", "--density", "2"], r"merge.density = 2.0: the share that is kept must lie in \(0, 1\]"),
        (["--block", "mid_block", "1", "1"], "--block: the method task_arithmetic does not read it"),
        (["--method", "per_block", "--block", "mid_block", "1"], r"merge.blocks.mid_block = \[1.0\]: must be N = 2"),
        (["--method", "per_block", "--block", "up_blocks.7", "1", "1"], "has no block 'up_blocks.7'; it has down"),
        (["--method", "per_block", "--block", "mid_block", "x"], "--block mid_block x: give a block and N numbers"),
        (["--method", "per_block", *2 * ["--block", "rest", "1", "1"]], "--block rest: stands there twice"),
        (["--max-shard-size", "5TB"], "--max-shard-size 5TB: give a number of bytes, or one with KB, MB or GB"),
        (["--recipe", "none.json"], "none.json: no such file"),
        (["--recipe", "none.json", "--seed", "1"], "--seed and --recipe: the recipe says it; leave one of them out"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_a_tensor_is_read(
    run: Merge, given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.setattr(HashedTensors, "flat", never)
    with pytest.raises(InputError, match=message) as error:
        run(*given, *args, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_cannot_be_are_refused_before_a_tensor_is_read(
    run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / "wide"
    UNet2DModel.from_config(load_denoiser(pipeline / "unet").config | {"block_out_channels": (4, 12)}).save_pretrained(
        wide
    )
    pickled = Path(shutil.copytree(experts[0], tmp_path / "pickled"))
    (pickled / WEIGHTS).rename(pickled / "diffusion_pytorch_model.bin")
    integers = foreign(experts[0], tmp_path / "integers", **{"conv_in.bias": torch.zeros(4, dtype=torch.int64)})
    lacking = Path(shutil.copytree(experts[0], tmp_path / "lacking"))
    state = read_tensors(lacking / WEIGHTS)
    del state["conv_in.bias"]
    write_tensors(lacking / WEIGHTS, state)
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = Path(shutil.copytree(experts[0], tmp_path / "cut"))
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:-1])
    monkeypatch.setattr(HashedTensors, "flat", never)
    for folder, message in [
        (tmp_path / "none", "none: no such directory"),
        (wide, r"are different architectures: '\S+' has shape \["),
        (pickled, r"diffusion_pytorch_model.bin: pickled weights are not read; save the model as safetensors"),
        (integers, r"'conv_in.bias' is torch.int64; only floating-point tensors are merged"),
        (lacking, r"has 'conv_in.bias', .* has not"),
        (empty, "no such file; a denoiser folder holds config.json and"),
        (cut, "is no whole safetensors file"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            run("--base", pipeline, "--experts", experts[0], folder, "--out", tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_an_index_that_does_not_fit_its_shards_is_refused(
    run: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    expert = tmp_path / "expert"
    UNet2DModel.from_pretrained(experts[0]).save_pretrained(expert, max_shard_size="15KB")
    index = expert / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    for change, message in [
        (
            {"weight_map": content["weight_map"] | {"new": next(iter(content["weight_map"].values()))}},
            "'new' is in the index or",
        ),
        ({"weight_map": content["weight_map"] | {"conv_in.bias": "../x.safetensors"}}, "is no index of shards"),
        ({"weight_map": content["weight_map"] | {"conv_in.bias": "x.safetensors"}}, "x.safetensors: no such file"),
        ({}, "index.json: lacks 'weight_map'"),
    ]:
        index.write_text(json.dumps(change))
        with pytest.raises(InputError, match=message):
            run("--base", pipeline, "--experts", expert, "--out", tmp_path / "out")


def test_an_output_is_not_overwritten_unless_forced(run: Merge, given: list, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run(*given, "--out", tmp_path / "out")  # empty: fine
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out holds something already; name another folder, or replace a merge with"):
        run(*given, "--out", tmp_path / "out")
    with pytest.raises(InputError, match=r"'notes.txt' is of no merge; move it away, or name another folder"):
        run(*given, "--out", tmp_path / "out", "--force")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "notes.txt").unlink()
    run(*given, "--weights", 1, 0, "--out", tmp_path / "out", "--force")
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["weights"] == [1, 0]
    for inside in (pipeline, pipeline / "unet", pipeline / "new", pipeline.parent):
        with pytest.raises(InputError, match="overlap; choose a folder outside of the inputs"):
            run(*given, "--out", inside, "--force")


def test_a_base_with_a_pickle_is_refused(run: Merge, pipeline_copy: Path, experts: list[Path], tmp_path: Path) -> None:
    (pipeline_copy / "unet" / "extra.bin").touch()
    with pytest.raises(InputError, match=r"extra\.bin: pickled weights are not read"):
        run("--base", pipeline_copy, "--experts", *experts, "--out", tmp_path / "out")


def test_weights_of_the_base_that_are_not_merged_are_not_copied(
    run: Merge, pipeline_copy: Path, experts: list[Path], tmp_path: Path
) -> None:
    shutil.copyfile(
        pipeline_copy / "unet" / WEIGHTS, pipeline_copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    run("--base", pipeline_copy, "--experts", *experts, "--out", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out/unet").iterdir()} == {"config.json", WEIGHTS}


def test_the_command_ends_with_one_line_and_status_1(pipeline: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "deme_core.merging",
        "--base",
        pipeline,
        "--experts",
        tmp_path / "none",
        "--out",
        "x",
    ]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"error: {tmp_path / 'none'}: no such directory; give a folder on this machine (`hf download OWNER/NAME` makes"
        " one)\n"
    )


def test_a_push_without_the_hub_is_refused_before_anything_is_merged(
    run: Merge, given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", offline)
    for repository, message in [
        ("me/merged", r"does not know who you are \(Name or service"),
        ("a b", "--push-to-hub a b"),
    ]:
        with pytest.raises(InputError, match=message):
            run(*given, "--out", tmp_path / "out", "--push-to-hub", repository)
    assert list(tmp_path.iterdir()) == []


def test_a_push_names_what_it_uploads(
    run: Merge, given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    called: list[str] = []
    for name in ("whoami", "create_repo", "upload_folder"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", lambda *_, name=name, **__: called.append(name))
    run(*given, "--out", tmp_path / "out", "--push-to-hub", "me/merged")
    assert called == ["whoami", "create_repo", "upload_folder"]
    text = capsys.readouterr().out
    assert "files," in text
    assert "to https://huggingface.co/me/merged:" in text
    assert f"  unet/{WEIGHTS}\n" in text


def test_released_projections_are_merged_and_folded_by_the_command_too(
    run: Merge, pipeline: Path, tmp_path: Path
) -> None:
    expert = write_expert(pipeline, tmp_path / "e", seed=1, placement="released")
    run("--base", pipeline, "--experts", expert, "--out", tmp_path / "out")
    run("--verify", tmp_path / "out", "--base", pipeline, "--experts", expert)
    x = torch.ones(1, 1, 8, 8)
    with torch.no_grad():
        merged, own = (load_denoiser(folder)(x, 300).sample for folder in (tmp_path / "out/unet", expert))
    torch.testing.assert_close(merged, own, rtol=1e-4, atol=1e-5)
