"""Prompts of one's own: one a line."""

from pathlib import Path

from deme_core.prompts.text_files import read_text


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the white space around them; blank ones are no prompts."""
    text = read_text(path, "prompts, one a line,", "write them")
    return [line.strip() for line in text.splitlines() if line.strip()]
