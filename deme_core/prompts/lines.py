"""Prompts of one's own: one a line."""

from pathlib import Path

from deme_core.errors import InputError
from deme_core.prompts.text_files import lines, read_text


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the white space around them; blank ones are no prompts.

    Raises:
        InputError: the file is missing or empty, or is JSON or a table of columns.
    """
    text = read_text(path, "prompts, one a line,", "write them")
    if text.lstrip().startswith(("{", "[")) or "\t" in text:
        raise InputError(
            f"{path}: JSON or a table, where prompts are expected one a line; take the source coco, imagenet or parti"
            " for such a file, or write the prompts alone"
        )
    return [line.strip() for line in lines(text) if line.strip()]
