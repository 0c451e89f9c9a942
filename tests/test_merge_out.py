"""Where a merge is written: nothing of the user's is lost, on a full disk, in any locale, under any name."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, files_of, python

from deme_core.checkpoints import WEIGHTS
from deme_core.errors import InputError
from deme_core.merging import __main__ as cli
from deme_core.merging.merge import write_merged
from deme_core.naming import shown


@pytest.fixture
def given(pipeline: Path, experts: list[Path]) -> list[str]:
    return ["--base", str(pipeline), "--experts", *map(str, experts)]


def merge(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["deme_core.merging", *map(str, args)])
    cli.main()


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("out", [".", "..", "photos", "photos/a.jpg", "unet"])
def test_nothing_of_the_users_is_replaced(
    given: list, empty_folder: Path, monkeypatch: pytest.MonkeyPatch, out: str, force: list[str]
) -> None:
    (empty_folder / "here" / "photos").mkdir(parents=True)
    (empty_folder / "here" / "unet").mkdir()
    monkeypatch.chdir("here")
    Path("photos/a.jpg").write_text("mine")
    Path("unet/diffusion_pytorch_model.safetensors").write_text("mine")
    before = files_of(empty_folder)
    with pytest.raises(InputError, match=r"^--out .*; .*(name|replace)") as error:
        merge(monkeypatch, *given, "--out", out, *force)
    assert "\n" not in str(error.value)
    assert files_of(empty_folder) == before


def test_a_stage_replaces_a_merge_and_nothing_else(pipeline: Path, vectors: list[Path], empty_folder: Path) -> None:
    for weights in ([0.0, 0.0], [0.3, 0.7]):
        write_merged(pipeline, vectors, weights, Path("merged"), {})
    for mine in ("mine.txt", "unet/mine.safetensors"):
        Path("merged", mine).write_text("mine")
        for out in (Path(), Path("merged")):
            with pytest.raises(InputError, match=f"cannot be replaced|'{mine}' is of no merge"):
                write_merged(pipeline, vectors, None, out, {})
        assert Path("merged", mine).read_text() == "mine"
        Path("merged", mine).unlink()


def test_a_link_stays_and_what_it_leads_to_is_replaced(
    given: list, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("disk").mkdir()
    Path("link").symlink_to("disk")
    for _ in range(2):
        merge(monkeypatch, *given, "--out", "link", "--force")
        assert Path("link").is_symlink()
        assert (empty_folder / "disk" / "merge.json").is_file()
        assert {path.name for path in empty_folder.iterdir()} == {"disk", "link"}


LIMITED = """
import resource, sys
from deme_core.merging.__main__ import main
from deme_core.stage import run
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what is written beyond it fails, as on a full disk
sys.argv[0] = "merging"
run(main)
"""


def test_a_disk_that_fills_up_leaves_one_line_and_what_was_there(
    given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(monkeypatch, *given, "--out", tmp_path / "out")
    before = files_of(tmp_path)
    ended = python(LIMITED, *given, "--weights", 1, 0, "--out", tmp_path / "out", "--force")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert "make room" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert files_of(tmp_path) == before


def test_a_disk_without_room_is_refused_before_a_tensor_is_read(
    given: list, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(monkeypatch, *given, "--out", tmp_path / "whole")
    written = sum(file.stat().st_size for file in (tmp_path / "whole").rglob("*") if file.is_file())
    for free, out in ((0, "a/b"), (written - 5_000, "a/b"), (written, "c")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        if out == "c":
            merge(monkeypatch, *given, "--out", tmp_path / out)
            continue
        with pytest.raises(InputError, match=r"b: takes [\d,]+ bytes, [\d,]+ are free; make room"):
            merge(monkeypatch, *given, "--out", tmp_path / out)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_other_than_utf_8_changes_no_byte(
    given: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    merge(monkeypatch, *given, "--out", tmp_path / "utf-8")
    environment = os.environ | {
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": f"{encoding}:strict",
    }  # fmt: skip
    command = [sys.executable, "-m", "deme_core.merging"]
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xce\xb8\n"
    for args in (["--help"], [*given, "--out", odd], ["--verify", odd], ["--verify", odd + b"!"]):
        ended = subprocess.run([*command, *args], capture_output=True, env=environment, check=False)
        assert b"Traceback" not in ended.stderr
        assert ended.returncode == (args[-1] == odd + b"!"), ended.stderr
    assert len(ended.stderr.splitlines()) == 1  # the last one's name holds a line break
    assert files_of(Path(os.fsdecode(odd))) == files_of(tmp_path / "utf-8")


def test_what_does_not_print_stands_as_its_escape() -> None:
    assert shown("θ\n\x1b[0m\udce9: no such directory") == r"θ\n\x1b[0m\udce9: no such directory"


def test_text_is_read_and_written_in_utf_8_by_name() -> None:
    silent = []
    for folder in ("deme_core", "stages", "conf", "studies", "hydra_plugins"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                    text = call.func.attr in ("read_text", "write_text")
                    if text and "encoding" not in {keyword.arg for keyword in call.keywords}:
                        silent.append(f"{file.relative_to(REPOSITORY)}:{call.lineno}")
    assert silent == []


def test_a_base_that_lacks_a_part_or_leads_nowhere_is_refused(
    pipeline_copy: Path, experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--base", pipeline_copy, "--experts", *experts, "--out", tmp_path / "out"]
    config = pipeline_copy / "scheduler" / "scheduler_config.json"
    config.rename(tmp_path / "elsewhere")
    config.symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"scheduler_config.json: a link to nothing"):
        merge(monkeypatch, *given)
    config.unlink()
    config.parent.rmdir()
    with pytest.raises(InputError, match=r"scheduler: no such directory, and .*model_index.json names it"):
        merge(monkeypatch, *given)
    with pytest.raises(InputError, match="a file, not the folder that holds it"):
        merge(monkeypatch, "--base", pipeline_copy / "unet" / WEIGHTS, "--experts", *experts, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
