"""Pipelines whose parts lie behind links to folders: copied whole, searched for pickles, and no circle is walked."""

import shutil
from pathlib import Path

import pytest

from deme_core.checkpoints import copy_pipeline, files_below, pipeline_files, refuse_pickles
from deme_core.errors import InputError
from deme_core.merging.output import frame


def test_a_part_behind_a_link_is_a_part_like_any_other(pipeline_copy: Path, tmp_path: Path) -> None:
    """As in a base that takes its VAE from another folder."""
    whole = {file.relative_to(pipeline_copy) for file in pipeline_files(pipeline_copy, weights=True)}
    shutil.move(pipeline_copy / "scheduler", tmp_path / "elsewhere")
    (pipeline_copy / "scheduler").symlink_to(tmp_path / "elsewhere")
    assert {file.relative_to(pipeline_copy) for file in frame(pipeline_copy)} == {
        file for file in whole if file.parts[0] != "unet" or file.name == "config.json"
    }
    copy_pipeline(pipeline_copy, tmp_path / "copy", weights=True)
    assert {file.relative_to(tmp_path / "copy") for file in (tmp_path / "copy").rglob("*") if file.is_file()} == whole
    (tmp_path / "elsewhere" / "weights.bin").touch()
    with pytest.raises(InputError, match=r"scheduler/weights\.bin: pickled weights are not read"):
        refuse_pickles(pipeline_copy)


def test_links_that_lead_round_in_a_circle_are_refused(pipeline_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (pipeline_copy / "scheduler" / "other").symlink_to(tmp_path / "other")
    assert files_below(pipeline_copy)
    (tmp_path / "other" / "back").symlink_to(pipeline_copy / "scheduler")
    with pytest.raises(InputError, match=r"scheduler/other/back: a link to a folder around it \(.*\); remove it"):
        copy_pipeline(pipeline_copy, tmp_path / "copy", weights=True)
