"""Names of files in a message: some of them, each on one line and printable, and how many there are."""

from collections.abc import Sequence

NAMED = 3


def shown(name: object) -> str:
    """A name as it can be printed: file names may hold line breaks, and bytes that are no UTF-8."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def named(names: Sequence[object]) -> str:
    """How many names there are, and the first few of them."""
    return f"{len(names)} ({', '.join(map(shown, names[:NAMED]))}{', …' if len(names) > NAMED else ''})"
