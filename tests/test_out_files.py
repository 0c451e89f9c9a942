"""What a command writes replaces nothing unasked, and is tried before the command's work begins."""

from collections.abc import Callable
from pathlib import Path

import pytest
from call_rows import study_rows
from conftest import files_of
from image_files import encoded, noise, write_folder

from deme_core.errors import InputError
from deme_core.metrics import __main__ as features
from deme_core.metrics.feature_files import read_features
from deme_core.metrics.features import load_extractor
from deme_core.report import calls, samplers

Command = Callable[..., None]


@pytest.fixture
def commands(
    empty_folder: Path, pipeline: Path, rgb_extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Command]:
    """Name -> the command in a folder of its own, with all that it needs but --out."""
    write_folder(empty_folder / "img", {f"{k}.png": encoded(noise(8, 8, seed=k)) for k in range(3)})
    study_rows().to_csv("rows.csv", index=False)
    Path("notes.md").write_text("mine\n")
    modules = {"features": features, "samplers": samplers, "calls": calls}
    words = {
        "features": ["--images", "img", "--size", 8, "--extractor", rgb_extractor],
        "samplers": ["--pipeline", pipeline, "--judges", "none", "--data", "none"],
        "calls": ["rows.csv"],
    }

    def named(name: str) -> Command:
        def call(*more: object) -> None:
            monkeypatch.setattr("sys.argv", [name, *map(str, [*words[name], *more])])
            modules[name].main()

        return call

    return {name: named(name) for name in modules}


@pytest.mark.parametrize(
    ("command", "out", "said"),
    [
        ("features", "img/0.png", "--out img/0.png: img/0.png is an input, which is never replaced"),
        ("features", "notes.md", "notes.md is there already; name another one, or replace it with --force"),
        ("features", "img", "img is a folder; name a file"),
        ("features", "notes.md/x", "notes.md is a file, not a folder; name another place"),
        ("features", "n" * 300, "cannot be written .File name too long.; name another place"),
        ("samplers", "notes.md", "--out notes.md: notes.md is a file, not a folder"),
        ("calls", "notes.md", "notes.md is there already; name another one, or replace it with --force"),
        ("calls", "rows.csv/c.md", "rows.csv is a file, not a folder; name another place"),
    ],
)
def test_an_output_that_would_replace_something_or_cannot_be_written_costs_no_work(
    commands: dict[str, Command], monkeypatch: pytest.MonkeyPatch, command: str, out: str, said: str
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(features, "load_extractor", work)
    monkeypatch.setattr(samplers, "load_judges", work)
    monkeypatch.setattr(calls, "by_calls", work)
    before = files_of(Path())
    with pytest.raises(InputError, match=said) as error:
        commands[command]("--out", out)
    assert "\n" not in str(error.value)
    assert files_of(Path()) == before


@pytest.mark.parametrize("command", ["features", "calls"])
def test_an_earlier_output_is_replaced_when_asked_and_an_input_never(
    commands: dict[str, Command], rgb_extractor: Path, command: str
) -> None:
    call = commands[command]
    call("--out", "new/out.md")  # with its folder
    made = files_of(Path("new"))
    assert made
    for file in Path("new").iterdir():
        file.write_text("earlier")
    with pytest.raises(InputError, match="--force"):
        call("--out", "new/out.md")
    call("--out", "new/out.md", "--force")
    assert files_of(Path("new")) == made
    with pytest.raises(InputError, match=r"0\.png is an input, which is never replaced"):
        commands["features"]("--out", "img/0.png", "--force")
    if command == "features":
        extractor = load_extractor(str(rgb_extractor))
        assert read_features(Path("new/out.md"), extractor.sha256).shape[0] == 3


def test_a_picture_beside_the_page_is_not_replaced_either(commands: dict[str, Command]) -> None:
    Path("page.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"--out page\.md: page\.png is there already"):
        commands["calls"]("--out", "page.md")
    assert Path("page.png").read_bytes() == b"mine" and not Path("page.md").exists()
