"""The scripts of the zoo: a folder that is none, or of another script, is one line before anything is read or made."""

from pathlib import Path

import pytest
from commands import command
from conftest import REPOSITORY

SCRIPTS = sorted(path.stem for path in (REPOSITORY / "zoo").glob("*.py") if "__main__" in path.read_text())


def refused(script: str, folder: Path) -> str:
    """What a script says of a folder that it cannot take, as a user sees it."""
    done = command(REPOSITORY / "zoo" / f"{script}.py", folder)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_does_not_exist_is_one_line(script: str, tmp_path: Path) -> None:
    said = refused(script, tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere: no such folder; name one that holds a recipe.yaml" in said


def test_what_holds_no_recipe_or_that_of_another_script_is_one_line(tmp_path: Path) -> None:
    (file := tmp_path / "recipe.yaml").write_text("data: {source: digits}\n")
    assert f"{file}: is no folder; " in refused("train_features", file)
    assert f"{file}: has no 'network', which this script reads; " in refused("train_features", tmp_path)
    file.write_text("data: [\nseed: }")
    assert f"{file}: is no YAML: " in refused("train_features", tmp_path)
    file.unlink()
    assert f"{tmp_path}: holds no recipe.yaml; " in refused("train_features", tmp_path)
    assert not any(tmp_path.iterdir())
