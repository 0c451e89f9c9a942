"""Where a command writes: tried before its work begins, and nothing that is there already is replaced unasked."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from deme_core.errors import InputError


def check_out_files(out: Path, files: Iterable[Path], inputs: Iterable[Path], force: bool) -> None:
    """Refuse output that could not be written, or that would replace something.

    Args:
        out: what `--out` says, for the message.
        files: those that will be written: it, or what goes into it or beside it. Folders on the way to them are made
            when they are written.
        inputs: files and folders that the command reads; nothing of them is ever replaced.
        force: admits files that are there, to be replaced.

    Raises:
        InputError: one line that names the file.
    """
    read = [given.resolve() for given in inputs]
    for file in files:
        try:
            _check(out, file, read, force)
        except OSError as error:  # a name that is too long, a folder that nobody writes to
            reason = error.strerror or type(error).__name__
            raise InputError(f"--out {out}: {file} cannot be written ({reason}); name another place") from None


def _check(out: Path, file: Path, inputs: list[Path], force: bool) -> None:
    if file.is_dir():
        raise InputError(f"--out {out}: {file} is a folder; name a file, such as {file / 'new'}{file.suffix}")
    if file.exists() or file.is_symlink():
        at = file.resolve()
        if any(at == given or given in at.parents for given in inputs):
            raise InputError(f"--out {out}: {file} is an input, which is never replaced; name another file")
        if not file.is_file():
            raise InputError(f"--out {out}: {file} is no regular file; name another one")
        if not force:
            raise InputError(f"--out {out}: {file} is there already; name another one, or replace it with --force")
    there = next(above for above in file.parents if above.exists())
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file, not a folder; name another place")
    with tempfile.TemporaryFile(dir=there):
        pass
