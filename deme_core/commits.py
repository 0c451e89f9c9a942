"""Which commit of a model on the hub was read: DVC sees no change there, and the revision of params may be a branch."""

import re
from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """The commit of the snapshot in the hub's cache that a folder is, or lies in; None for any other folder."""
    match = re.search("/snapshots/([0-9a-f]{40})(/|$)", folder.as_posix())
    return match and match[1]


def say_commit(model: str, folder: Path, key: str) -> str | None:
    """The same, told in one line with the param `key` that pins it."""
    if commit := commit_of(folder):
        print(f"{model}: commit {commit} of the hub; {key}={commit} pins it")
    return commit
