"""Foreign text in a message, on one line and printable: names of files, and what a library says."""

from collections.abc import Sequence

NAMED = 3
LONGEST = 200  # characters of what a library says, which may print a whole file


def shown(name: object) -> str:
    """A name, or any text, as it can be printed: file names may hold line breaks, and bytes that are no UTF-8."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def named(names: Sequence[object]) -> str:
    """How many names there are, and the first few of them."""
    return f"{len(names)} ({', '.join(map(shown, names[:NAMED]))}{', …' if len(names) > NAMED else ''})"


def said(error: Exception) -> str:
    """What a library says, or its kind of error where it says nothing."""
    return shown(" ".join(str(error).split()))[:LONGEST] or type(error).__name__
