"""What the command of a merge refuses before time is spent."""

import json
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import never, write_expert
from diffusers import UNet2DModel
from merge_command import Merge, foreign

from deme_core.checkpoints import WEIGHTS, load_denoiser
from deme_core.errors import InputError
from deme_core.merging import hashing, merge
from deme_core.merging.hashing import AHEAD, HashedTensors
from deme_core.tensors import read_tensors, shapes, write_tensors

# Nothing for nothing


def test_a_dry_run_writes_nothing_and_knows_the_sizes(
    run_merge: Merge, base_and_experts: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    how = [*base_and_experts, "--max-shard-size", "12KB", "--method", "ties", "--out", tmp_path / "out"]
    run_merge(*how, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    text = capsys.readouterr().out
    run_merge(*how)
    written = {file.name: file.stat().st_size for file in (tmp_path / "out/unet").glob("*.safetensors")}
    foretold = {name: int(size) for name, size in re.findall(r"output   (\S+) (\d+) bytes", text)}
    assert foretold == written
    assert len(written) > 1
    assert re.search(r"^inputs   \d+ kB in 3 models, \d+ tensors each$", text, re.MULTILINE)
    assert re.search(r"^memory   about \d+ MB at most$", text, re.MULTILINE)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_memory_is_a_few_tensors_whatever_n(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
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
    run_merge("--base", pipeline, "--experts", *(4 * experts), "--method", method, "--out", tmp_path / "out")
    assert 2 <= most["read"] <= 3
    assert most["hash"] <= AHEAD + 3  # waiting, being made, and one in the hands of each thread


def test_each_input_is_read_once(
    run_merge: Merge, base_and_experts: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Path, str, int]] = []
    flat = merge.HashedTensors.__mro__[1].flat

    def noted(self: Any, key: str, start: int, stop: int) -> torch.Tensor:
        read.append((self.path, key, start))
        return flat(self, key, start, stop)

    monkeypatch.setattr("deme_core.tensor_files.Tensors.flat", noted)
    run_merge(*base_and_experts, "--out", tmp_path / "out")
    assert len(read) == len(set(read)) == 3 * len(shapes(tmp_path / "out/unet" / WEIGHTS))


# What is refused


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--weights", "0.5"], r"^--weights \[0.5\]: a merge of 2 task vectors needs 2 finite numbers"),
        (["--weights", "nan", "0.5"], "needs 2 finite numbers"),
        (["--method", "uniform_soup", "--weights", "1", "1"], r"the method uniform_soup takes none, it is w = 1/2"),
        (["--density", "0.5"], "--density: the method task_arithmetic does not read it"),
        (["--method", "ties", "--seed", "1"], "--seed: the method ties does not read it"),
        (["--method", "ties", "--density", "2"], r"^--density 2.0: the share that is kept must lie in \(0, 1\]"),
        (["--block", "mid_block", "1", "1"], "--block: the method task_arithmetic does not read it"),
        (["--method", "per_block", "--block", "mid_block", "1"], r"^--block mid_block \[1.0\]: must be N = 2"),
        (["--method", "per_block"], "^--block {}: the method per_block needs weights of at least one block"),
        (["--method", "per_block", "--block", "head", "1", "1"], "^--block 'head': a block is down_blocks.0, "),
        (["--method", "dare", "--seed", "-1"], "^--seed -1: must not be negative"),
        (["--method", "per_block", "--block", "up_blocks.7", "1", "1"], "^--block: the model has no block 'up_b"),
        (["--method", "per_block", "--block", "mid_block", "x"], "--block mid_block x: give a block and N numbers"),
        (["--method", "per_block", *2 * ["--block", "rest", "1", "1"]], "--block rest: stands there twice"),
        (["--max-shard-size", "5TB"], "--max-shard-size 5TB: give a number of bytes, or one with KB, MB or GB"),
        (["--recipe", "none.json"], "none.json: no such file"),
        (["--recipe", "none.json", "--seed", "1"], "--seed and --recipe: the recipe says it; leave one of them out"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_a_tensor_is_read(
    run_merge: Merge,
    base_and_experts: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(HashedTensors, "flat", never)
    with pytest.raises(InputError, match=message) as error:
        run_merge(*base_and_experts, *args, "--out", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_cannot_be_are_refused_before_a_tensor_is_read(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / "wide"
    UNet2DModel.from_config(load_denoiser(pipeline / "unet").config | {"block_out_channels": (4, 12)}).save_pretrained(
        wide
    )
    pickled = Path(shutil.copytree(experts[0], tmp_path / "pickled"))
    (pickled / WEIGHTS).rename(pickled / "diffusion_pytorch_model.bin")
    integers = foreign(experts[0], tmp_path / "integers", **{"conv_in.bias": torch.zeros(4, dtype=torch.int64)})
    lacking = Path(shutil.copytree(experts[0], tmp_path / "lacking"))
    state_dict = read_tensors(lacking / WEIGHTS)
    del state_dict["conv_in.bias"]
    write_tensors(lacking / WEIGHTS, state_dict)
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
            run_merge("--base", pipeline, "--experts", experts[0], folder, "--out", tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_an_index_that_does_not_fit_its_shards_is_refused(
    run_merge: Merge, pipeline: Path, experts: list[Path], tmp_path: Path
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
            run_merge("--base", pipeline, "--experts", expert, "--out", tmp_path / "out")


def test_an_output_is_not_overwritten_unless_forced(
    run_merge: Merge, base_and_experts: list, pipeline: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    run_merge(*base_and_experts, "--out", tmp_path / "out")  # empty: fine
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="out holds something already; name another folder, or replace a merge with"):
        run_merge(*base_and_experts, "--out", tmp_path / "out")
    with pytest.raises(InputError, match=r"'notes.txt' is of no merge; move it away, or name another folder"):
        run_merge(*base_and_experts, "--out", tmp_path / "out", "--force")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "notes.txt").unlink()
    run_merge(*base_and_experts, "--weights", 1, 0, "--out", tmp_path / "out", "--force")
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["weights"] == [1, 0]
    for inside in (pipeline, pipeline / "unet", pipeline / "new", pipeline.parent):
        with pytest.raises(InputError, match="overlap; choose a folder outside of the inputs"):
            run_merge(*base_and_experts, "--out", inside, "--force")


def test_a_base_with_a_pickle_is_refused(
    run_merge: Merge, pipeline_copy: Path, experts: list[Path], tmp_path: Path
) -> None:
    (pipeline_copy / "unet" / "extra.bin").touch()
    with pytest.raises(InputError, match=r"extra\.bin: pickled weights are not read"):
        run_merge("--base", pipeline_copy, "--experts", *experts, "--out", tmp_path / "out")


def test_weights_of_the_base_that_are_not_merged_are_not_copied(
    run_merge: Merge, pipeline_copy: Path, experts: list[Path], tmp_path: Path
) -> None:
    shutil.copyfile(
        pipeline_copy / "unet" / WEIGHTS, pipeline_copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    run_merge("--base", pipeline_copy, "--experts", *experts, "--out", tmp_path / "out")
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
    run_merge: Merge, base_and_experts: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", offline)
    for repository, message in [
        ("me/merged", r"does not know who you are \(Name or service"),
        ("a b", "--push-to-hub a b"),
    ]:
        with pytest.raises(InputError, match=message):
            run_merge(*base_and_experts, "--out", tmp_path / "out", "--push-to-hub", repository)
    assert list(tmp_path.iterdir()) == []


def test_a_push_names_what_it_uploads(
    run_merge: Merge,
    base_and_experts: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    called: list[str] = []
    for name in ("whoami", "create_repo", "upload_folder"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", lambda *_, name=name, **__: called.append(name))
    run_merge(*base_and_experts, "--out", tmp_path / "out", "--push-to-hub", "me/merged")
    assert called == ["whoami", "create_repo", "upload_folder"]
    text = capsys.readouterr().out
    assert "files," in text
    assert "to https://huggingface.co/me/merged:" in text
    assert f"  unet/{WEIGHTS}\n" in text


def test_released_projections_are_merged_and_folded_by_the_command_too(
    run_merge: Merge, pipeline: Path, tmp_path: Path
) -> None:
    expert = write_expert(pipeline, tmp_path / "e", seed=1, placement="released")
    run_merge("--base", pipeline, "--experts", expert, "--out", tmp_path / "out")
    run_merge("--verify", tmp_path / "out", "--base", pipeline, "--experts", expert)
    x = torch.ones(1, 1, 8, 8)
    with torch.no_grad():
        merged, expected = (load_denoiser(folder)(x, 300).sample for folder in (tmp_path / "out/unet", expert))
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
