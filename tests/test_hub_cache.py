"""A hub's cache as huggingface_hub leaves it: what is whole, and what was cut off."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from hub_files import offline_hub
from huggingface_hub import snapshot_download
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from needed import data, of_source, one, pretrain

from deme_core.preflight.artefacts import model_folder


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    return offline_hub(monkeypatch)


def cached(cache: Path, repository: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the snapshot of a repository's main lies in a cache that is now the hub's; nothing is there yet."""
    commit = "a" * 40
    monkeypatch.setattr("huggingface_hub.snapshot_download", partial(snapshot_download, cache_dir=cache))
    (cache / repository / "refs").mkdir(parents=True)
    (cache / repository / "refs/main").write_text(commit)
    return cache / repository / "snapshots" / commit


@pytest.mark.parametrize("left", ["a blob", "a listing", "the card alone", "nothing"])
def test_a_hub_data_set_whose_download_was_cut_off_is_missing(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache as huggingface_hub leaves it, which says so where it knows; nothing reaches for the network."""
    snapshot = cached(tmp_path / "hub", "datasets--owner--images", monkeypatch)
    repository = snapshot.parents[1]
    for folder in (snapshot, repository / "blobs"):
        folder.mkdir(parents=True)
    (snapshot / "README.md").touch()
    if left != "the card alone":
        (snapshot / "train.parquet").touch()
    for etag in ("e0", "e1"):
        (repository / f"blobs/{etag}.1234abcd.incomplete").touch()
        if (left, etag) != ("a blob", "e1"):
            (repository / "blobs" / etag).touch()  # that one was fetched again
    if left == "a listing":
        entries = {f"{part}.parquet": TreeCacheEntry(1, "e0") for part in ("train", "test")}
        write_tree_cache(str(repository), snapshot.name, entries)
    found = one(of_source(data("hub", "owner/images"), tmp_path), "data")
    if left == "nothing":
        assert found.path == snapshot
    else:
        said = "was cut off; hf download --repo-type dataset owner/images goes on"
        assert found.path is None and found.remedy == f"a download into {snapshot} {said}"


def test_a_model_of_which_a_part_was_asked_for_is_there(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub calls that an incomplete snapshot; the run reads no other file."""
    snapshot = cached(tmp_path, "models--owner--name", monkeypatch)
    shutil.copytree(pipeline, snapshot)
    names = [str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.is_file()]
    listed = {name: TreeCacheEntry(1, "e0") for name in [*names, "sample.png"]}
    write_tree_cache(str(snapshot.parents[1]), snapshot.name, listed)
    assert model_folder(pretrain("owner/name")) == snapshot
