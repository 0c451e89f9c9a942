"""Unfinished work, kept outside DVC's outs (which DVC deletes before a stage runs again) so that it can go on."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deme_core.closure import closure
from deme_core.errors import InputError
from deme_core.processes import partial_state, wait

ROOT = Path(".checkpoints")


def work_dir(label: str, identity: dict[str, Any], code: str, root: Path = ROOT) -> Path:
    """`root/<label>-<hash>` of everything the work depends on, so that other work never finds it.

    Args:
        identity: params and hashes of the inputs.
        code: `__file__` of what does the work. It and all that it reaches are hashed, so that unfinished work of
            another version is not taken over; a change of other code orphans nothing.
    """
    import torch

    digest = hashlib.sha256(json.dumps([identity, torch.__version__], sort_keys=True).encode())
    for file in closure(Path(code)):
        digest.update(file.read_bytes())
    return root / f"{label}-{digest.hexdigest()[:16]}"


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the folder's lock: a killed `dvc repro` leaves its stage running, and the next one must not join it.

    Each process of a launch holds one of its own, and none goes on before all have theirs.

    Raises:
        InputError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    process = partial_state().process_index
    with (directory / (f"lock-{process}" if process else "lock")).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{directory}: process {file.read().strip()} is working on this already; wait for it, or stop it"
                " and run again: nothing is lost"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        wait()
        yield
