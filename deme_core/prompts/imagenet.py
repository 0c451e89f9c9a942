"""The names of ImageNet's 1,000 classes (Russakovsky et al. 2015, arXiv 1409.0575), or of any other classes."""

import json
import re
from pathlib import Path

from deme_core.errors import InputError
from deme_core.prompts.text_files import read_text

WHERE = "imagenet_class_index.json, which Keras fetches, or LOC_synset_mapping.txt of Kaggle's ImageNet challenge"


def read_class_names(path: Path) -> list[str]:
    """The names in the order of the classes, words parted by blanks, the first of several synonyms.

    A class-index JSON maps each number to a name, or to a WordNet id and a name; a text file has a class a line, with
    or without its WordNet id in front.
    """
    text = read_text(path, "class names", WHERE)
    names = _from_json(text, path) if path.suffix == ".json" else text.splitlines()
    return [name for line in names if (name := _plain(line))]


def _from_json(text: str, path: Path) -> list[str]:
    try:
        rows = {int(number): row if isinstance(row, str) else row[-1] for number, row in json.loads(text).items()}
        if sorted(rows) != list(range(len(rows))) or not all(isinstance(name, str) for name in rows.values()):
            raise ValueError("its keys are not 0, 1, …, or a name is no text")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f'{path}: not a class-index JSON as {{"0": ["n01440764", "tench"], …}} ({error}); take {WHERE}'
        ) from None
    return [rows[number] for number in range(len(rows))]


def _plain(line: str) -> str:
    name = re.sub(r"^n\d{8}\s+", "", line.strip()).partition(",")[0]
    return name.replace("_", " ").strip()
