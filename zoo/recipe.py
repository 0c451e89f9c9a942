"""The argument of every script of the zoo: a folder that holds recipe.yaml."""

import argparse
from pathlib import Path
from typing import Any

from deme_core.params import read


def read_recipe(doc: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder that the command line names, and its recipe; `doc` is what --help says."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("folder", type=Path, help="folder that holds recipe.yaml")
    folder = parser.parse_args().folder
    return folder, read(folder / "recipe.yaml")
