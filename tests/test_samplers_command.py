"""`deme samplers`: a real model measured, other models beside it, and mistakes that cost no sampling."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import edit_config, files_of, never

from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.report import samplers
from deme_core.report.samplers import STOCK

Command = Callable[..., None]


@pytest.fixture
def command(pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command on a small model with few images, into tmp_path/out; what is given comes last, and so holds."""
    save_part(tmp_path / "data", "train", Images(digits, torch.full((len(digits),), -1)))
    (tmp_path / "judges" / "pixels").mkdir(parents=True)
    (tmp_path / "judges" / "pixels" / "config.json").write_text('{"_class_name": "Pixels", "side": 2}')
    arguments = ["samplers", "--pipeline", pipeline, "--data", tmp_path / "data", "--judges", tmp_path / "judges"]
    arguments += ["--calls", 4, "--images", 24, "--blocks", 2, "--block", 12, "--out", tmp_path / "out"]

    def call(*words: object) -> None:
        monkeypatch.setattr("sys.argv", list(map(str, [*arguments, *words])))
        samplers.main()

    return call


def test_it_measures_a_real_model_and_replaces_its_page_only_when_asked(
    command: Command, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command()
    assert "# Samplers of the pretrained model" in capsys.readouterr().out
    written = files_of(tmp_path / "out")
    assert written.keys() == {f"samplers.{kind}" for kind in ("md", "csv", "png", "html")}
    with pytest.raises(InputError, match=r"samplers\.md is there already; name another one, or replace it with --for"):
        command("--beside", f"same={pipeline}")
    assert files_of(tmp_path / "out") == written
    command("--beside", f"same={pipeline}", "--force")
    beside = pd.read_csv(tmp_path / "out" / "beside.csv")
    assert (beside["change"] == 0).all() and len(beside) == len(STOCK)
    assert files_of(tmp_path / "out")["samplers.md"] != written["samplers.md"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--beside", "neon"], "^--beside neon: must be NAME=PIPELINE"),
        (["--blocks", "5"], "^--images 24: must be a multiple of --blocks = 5"),
        (["--blocks", "0"], "^--blocks 0: must be at least 1"),
        (["--images", "0"], "^--images 0: must be at least 1"),
        (["--images", "-8"], "^--images -8: must be at least 1"),
        (["--calls", "4", "0"], "^--calls 0: must be at least 1"),
        (["--block", "0"], "^--block 0: must be at least 1"),
        (["--blocks", "24"], "^--images 24: must be at least twice --blocks"),
        (["--blocks", "1", "--beside", "x=y"], "^--blocks 1: must be at least 2 with --beside"),
    ],
)
def test_a_mistake_is_said_in_one_line(command: Command, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        command(*words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_another_model_than_the_base_does_not_stand_beside_it(
    command: Command, pipeline_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of larger images, which has the same weights."""
    edit_config(pipeline_copy / "unet", sample_size=16)
    monkeypatch.setattr(samplers, "load_judges", never)
    with pytest.raises(InputError, match=r"is another model than .*: config\.json sample_size is 16, the base's 8\."):
        command("--beside", f"x={pipeline_copy}")
    assert not (tmp_path / "out").exists()


def test_the_help_says_what_is_taken_where_nothing_is_given(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    said = " ".join(capsys.readouterr().out.split())
    for default in ("data/images", "[10, 20, 50]", "2000", "4", "500"):
        assert f"; default {default} " in said
