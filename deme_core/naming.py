"""Foreign text in a message, on one line and printable: names of files, and what a library says."""

from collections.abc import Sequence

NAMED = 3
LONGEST = 200  # characters; a library or a header may print a whole file


def shown(name: object) -> str:
    """A name, or any text, as it can be printed: file names may hold line breaks, and bytes that are no UTF-8."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def named(names: Sequence[object]) -> str:
    """How many names there are, and the first few of them."""
    return f"{len(names)} ({', '.join(map(shown, names[:NAMED]))}{', …' if len(names) > NAMED else ''})"


def brief(text: object, longest: int = LONGEST) -> str:
    """What a library or a file says, as it can be printed: on one line, and not beyond `longest` characters."""
    line = shown(" ".join(str(text).split()))
    return line if len(line) <= longest else f"{line[:longest]} …"


def said(error: Exception) -> str:
    """What a library says, or its kind of error where it says nothing."""
    return brief(error) or type(error).__name__
