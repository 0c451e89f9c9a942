"""Reading the text file of a prompt set, with one line on what is wrong with it."""

from pathlib import Path

from deme_core.errors import InputError


def read_text(path: Path, what: str, where: str) -> str:
    """The text of a file, UTF-8 with or without a byte order mark.

    Args:
        what: the file holds, for people.
        where: it comes from.

    Raises:
        InputError: there is no such file, it is empty, or it is no text.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {what} are expected there: {where}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8; {what} are expected there: {where}") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; {what} are expected there: {where}")
    return text


def lines(text: str) -> list[str]:
    """The lines of a text as an editor shows them; str.splitlines would part them at rare signs within, too."""
    return text.split("\n")
