"""closures/STAGE: links to the files of a script's closure, the one dependency on code that dvc.yaml needs of a stage.

    python -m deme_core.code_links

DVC hashes what the links lead to. A change of code that a stage reaches runs it again, and no other change does. The
links are committed; after a change of imports this command writes them anew.
"""

import os
import shutil
from pathlib import Path

from deme_core.closure import closure
from deme_core.errors import InputError

FOLDER = "closures"
COMMAND = "python -m deme_core.code_links"


def expected(script: Path, root: Path) -> dict[str, str]:
    """Path of each link below closures/STAGE -> what it says, for a script of the folder root/stages."""
    files = [file.relative_to(root) for file in closure(script, root / "deme_core")]
    return {str(file): os.path.relpath(root / file, (root / FOLDER / script.stem / file).parent) for file in files}


def found(script: Path, root: Path) -> dict[str, str | None]:
    """The same as it is on disk; None for what is no link."""
    folder = root / FOLDER / script.stem
    files = [file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()]
    return {str(file.relative_to(folder)): str(file.readlink()) if file.is_symlink() else None for file in files}


def check_links(script: Path, root: Path) -> None:
    """Refuse links that are out of date: DVC would not see a change of the code that they leave out.

    Raises:
        InputError: it names the first path that differs, and the command that mends it.
    """
    want, have = expected(script, root), found(script, root)
    if wrong := sorted(path for path in want.keys() | have.keys() if want.get(path) != have.get(path)):
        raise InputError(
            f"{FOLDER}/{script.stem}/{wrong[0]}: does not agree with what stages/{script.name} imports, so that DVC"
            f" would miss a change of code; run `{COMMAND}`"
        )


def write_links(root: Path) -> None:
    """Write the links of every script in root/stages; those of scripts that are gone go."""
    links = {script.stem: expected(script, root) for script in sorted((root / "stages").glob("*.py"))}
    shutil.rmtree(root / FOLDER, ignore_errors=True)
    for stage, files in links.items():
        for name, target in files.items():
            link = root / FOLDER / stage / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)


if __name__ == "__main__":
    write_links(Path.cwd())
