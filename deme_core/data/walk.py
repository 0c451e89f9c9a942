"""Every file below a folder, through linked folders, too; what programs leave beside images is not entered."""

import os
from collections.abc import Sequence
from pathlib import Path

from deme_core.data.formats import of_a_tool
from deme_core.errors import InputError


def walk(roots: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files below some folders, and what was not entered or is of a tool, with the reason.

    Each folder is read once: links are followed after all folders that lie there themselves, and one that leads to a
    folder already read, or to one around a root, is not.

    Raises:
        InputError: a folder cannot be listed.
    """
    files: list[Path] = []
    left_out: list[str] = []
    waiting, read = [*roots], dict[str, Path]()
    around = {folder for root in roots for folder in Path(os.path.realpath(root)).parents}
    while waiting:
        top = waiting.pop(0)
        if top not in roots and Path(os.path.realpath(top)) in around:
            left_out.append(f"{top}, which leads back to a folder around")
            continue
        for place, inner, names in os.walk(top, onerror=_refuse):
            folder, real = Path(place), os.path.realpath(place)
            if real in read:
                left_out += [f"{folder}, which is read as {read[real]}"] if read[real] != folder else []
                inner.clear()
                continue
            read[real] = folder
            left_out += [str(folder / name) for name in sorted([*inner, *names]) if of_a_tool(name)]
            files += [folder / name for name in names if not of_a_tool(name)]
            folders = [folder / name for name in sorted(inner) if not of_a_tool(name)]
            waiting += [one for one in folders if one.is_symlink()]
            inner[:] = [one.name for one in folders if not one.is_symlink()]
    return files, left_out


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: the folder cannot be listed ({error.strerror}); make it readable") from None
