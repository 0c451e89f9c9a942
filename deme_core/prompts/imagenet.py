"""The names of ImageNet's 1,000 classes (Russakovsky et al. 2015, arXiv 1409.0575), or of any other classes."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deme_core.errors import InputError
from deme_core.json_files import parse_json
from deme_core.naming import said
from deme_core.prompts.text_files import lines, read_text

WHERE = "imagenet_class_index.json, which Keras fetches, or LOC_synset_mapping.txt of Kaggle's ImageNet challenge"
KNOWN = (
    'names or [WordNet id, name] as a JSON list, by number as {"0": "tench", …}, by name as {"tench": 0, …}, or one a'
    " line, each with its number, its WordNet id, both or neither in front"
)
SYNSET = r"n\d{8}"
NUMBER = re.compile(r"""["']?(\d+)["']?(?:\s*[:,;.)]\s*|\s+)(?=\S)""")
NO_NAME = re.compile(r"""[{}\[\]<>|=:;"\t]|^[#'`-]""")  # what other formats are made of


def read_class_names(path: Path) -> list[str]:
    """The names in the order of the classes, words parted by blanks, the first of several synonyms.

    A list or dict, in JSON or as Python prints it, or a class a line; numbers in front of the names give the order.

    Raises:
        InputError: the file has another form, of which parts would be taken for names.
    """
    text = read_text(path, "class names", WHERE)
    try:
        whole = text.lstrip().startswith(("{", "[")) or path.suffix == ".json"
        names = _of_structure(_parse(text)) if whole else _of_lines([line.strip() for line in lines(text)])
        return [_plain(name) for name in names]
    except ValueError as error:
        raise InputError(f"{path}: not a list of class names ({said(error)}); write {KNOWN}; or take {WHERE}") from None


def _parse(text: str) -> Any:
    """A structure in JSON or as Python prints it; no key of which may stand twice."""
    try:
        return parse_json(text)
    except ValueError as no_json:
        try:
            found = ast.parse(text.strip(), mode="eval").body
            if not isinstance(found, ast.Dict):
                return ast.literal_eval(found)
            keys = [ast.literal_eval(key) for key in found.keys if key]
            pairs = list(zip(keys, map(ast.literal_eval, found.values), strict=True))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise no_json from None
    return _distinct(pairs)


def _of_structure(found: Any) -> list[str]:
    """Names of a list, of a dict by number, or of a dict by name."""
    if isinstance(found, dict) and all(type(value) is int for value in found.values()):
        found = _distinct((number, name) for name, number in found.items())
    if isinstance(found, dict):
        rows = _distinct((_number(key), row) for key, row in found.items())
        if sorted(rows) not in (list(range(len(rows))), list(range(1, len(rows) + 1))):
            raise ValueError("its keys are not 0, 1, … nor 1, 2, …")
        found = [rows[number] for number in sorted(rows)]
    if not isinstance(found, list):
        raise ValueError(f"it holds one value of type {type(found).__name__}")
    names = [row[-1] if isinstance(row, list | tuple) and len(row) in (1, 2) else row for row in found]
    if odd := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{str(odd[0])[:60]!r} is no name")
    return names


def _of_lines(rows: list[str]) -> list[str]:
    """Names of lines, in the order of their numbers where they have any."""
    rows = [re.sub(rf"^{SYNSET}[\s,:]+", "", row) for row in rows if row]
    numbered = [NUMBER.match(row) for row in rows]
    if any(numbered):
        bare = [row for row, match in zip(rows, numbered, strict=True) if not match]
        if bare:
            raise ValueError(f"some lines begin with a number, and others, as {bare[0][:60]!r}, do not")
        found = _distinct((int(m[1]), row[m.end() :]) for row, m in zip(rows, numbered, strict=True) if m)
        rows = [re.sub(rf"^{SYNSET}[\s,:]+", "", found[number]) for number in sorted(found)]
    return [_cell(row) for row in rows]


def _number(key: Any) -> int:
    if not (type(key) is int or (isinstance(key, str) and key.isdecimal())):
        raise ValueError(f"its key {str(key)[:60]!r} is no number")
    return int(key)


def _distinct(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{str(key)[:60]!r} stands twice")
        found[key] = value
    return found


def _plain(text: str) -> str:
    """The first of several synonyms, words parted by blanks."""
    name = text.partition(",")[0].replace("_", " ").strip()
    if not name or re.fullmatch(SYNSET, name):
        raise ValueError(f"{text[:60]!r} is no name")
    return name


def _cell(line: str) -> str:
    """What stands in a line, without the quotation marks of a table's cell or of a printed list."""
    line = line.strip().rstrip(",").strip()
    if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" and line.count(line[0]) == 2:
        line = line[1:-1]
    if NO_NAME.search(line):
        raise ValueError(f"the line {line[:60]!r} is no name")
    return line
