"""Merges that were killed, are replayed and verified."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import files_of, python
from merge_command import Merge, foreign

from deme_core.checkpoints import WEIGHTS
from deme_core.errors import InputError
from deme_core.merging.output import atomic_folder
from deme_core.tensors import read_tensors, write_tensors

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


def test_a_killed_merge_leaves_no_output_and_the_next_one_is_whole(
    run_merge: Merge, base_and_experts: list, tmp_path: Path
) -> None:
    out = tmp_path / "there" / "out"
    killed = python(KILL, *base_and_experts, "--out", out)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    assert any(tmp_path.rglob("*.partial"))  # it had begun to write
    run_merge(*base_and_experts, "--out", out)
    run_merge(*base_and_experts, "--out", tmp_path / "undisturbed")
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
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "out")
    before = files_of(tmp_path / "out")
    broken = foreign(
        experts[0], tmp_path / "broken", **{"up_blocks.0.resnets.0.conv1.bias": torch.full((8,), torch.nan)}
    )
    with pytest.raises(InputError, match=r"broken/.*'up_blocks.0.resnets.0.conv1.bias' holds NaN or infinite values"):
        run_merge("--base", pipeline, "--experts", broken, "--out", tmp_path / "out", "--force")
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
def test_a_replay_gives_the_same_bytes(
    run_merge: Merge, base_and_experts: list, tmp_path: Path, how: list[str]
) -> None:
    run_merge(*base_and_experts, *how, "--out", tmp_path / "a")
    run_merge(*base_and_experts, "--recipe", tmp_path / "a" / "merge.json", "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_replay_of_other_inputs_writes_nothing(
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path
) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "a")
    with pytest.raises(InputError, match=r"merge.json: experts_sha256 is \[.*, but these files give"):
        run_merge(
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
        run_merge(
            "--base", pipeline, "--experts", experts[0], "--recipe", tmp_path / "a/merge.json", "--out", tmp_path / "b"
        )
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
def test_what_is_no_recipe_is_refused(
    run_merge: Merge, base_and_experts: list, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "merge.json").write_text(text)
    with pytest.raises(InputError, match=message):
        run_merge(*base_and_experts, "--recipe", tmp_path / "merge.json", "--out", tmp_path / "out")


def test_verify_accepts_what_a_merge_wrote(
    run_merge: Merge, base_and_experts: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "out")
    run_merge("--verify", tmp_path / "out", *base_and_experts)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["same", "output"], ["same", "base"], ["same", "expert"], ["same", "expert"],
    ]  # fmt: skip
    run_merge("--verify", tmp_path / "out")


@pytest.mark.parametrize("which", ["output", "base", "expert"])
def test_verify_catches_one_flipped_byte(
    run_merge: Merge, base_and_experts: list, pipeline: Path, experts: list[Path], tmp_path: Path, which: str
) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "out")
    base = Path(shutil.copytree(pipeline, tmp_path / "base"))
    expert = Path(shutil.copytree(experts[1], tmp_path / "expert"))
    file = {"output": tmp_path / "out/unet", "base": base / "unet", "expert": expert}[which] / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: not the {which} that merge.json names$"):
        run_merge("--verify", tmp_path / "out", "--base", base, "--experts", experts[0], expert)


def test_verify_catches_a_changed_recipe(run_merge: Merge, base_and_experts: list, tmp_path: Path) -> None:
    run_merge(*base_and_experts, "--out", tmp_path / "out")
    file = tmp_path / "out" / "merge.json"
    file.write_text(file.read_text().replace("0.5", "0.6"))
    with pytest.raises(InputError, match=r"its metadata are not merge.json"):
        run_merge("--verify", tmp_path / "out")


def test_a_merge_into_a_base_in_float64_is_replayed(
    run_merge: Merge, pipeline_copy: Path, experts: list[Path], tmp_path: Path
) -> None:
    file = pipeline_copy / "unet" / WEIGHTS
    write_tensors(file, {key: value.double() for key, value in read_tensors(file).items()})
    models = ["--base", pipeline_copy, "--experts", *experts]
    run_merge(*models, "--out", tmp_path / "a")
    recipe = tmp_path / "a" / "merge.json"
    assert json.loads(recipe.read_text())["dtype"] == "float64"
    run_merge(*models, "--recipe", recipe, "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
