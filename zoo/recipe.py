"""The argument of every script of the zoo: a folder that holds recipe.yaml."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from deme_core.errors import InputError
from deme_core.naming import brief
from deme_core.params import read

NAME = "recipe.yaml"


def read_recipe(doc: str | None, *sections: str) -> tuple[Path, dict[str, Any]]:
    """The folder that the command line names, and its recipe.

    Args:
        doc: what --help says.
        sections: that the script reads; a recipe without one is of another script.

    Raises:
        InputError: there is no such folder, no recipe in it, or one that is no YAML or of another script.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("folder", type=Path, help=f"folder that holds {NAME}")
    folder = parser.parse_args().folder
    if not (file := folder / NAME).is_file():
        lacks = f"holds no {NAME}" if folder.is_dir() else "is no folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {lacks}; name one that holds a {NAME}, as folders of zoo/ do")
    try:
        recipe: Any = read(file)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{file}: is no YAML: {brief(error)}") from error
    for name in sections:
        if not isinstance(recipe, dict) or name not in recipe:
            raise InputError(
                f"{file}: has no '{name}', which this script reads; a comment at the top of a recipe, or zoo/README.md,"
                " names the script that it is for"
            )
    return folder, recipe
