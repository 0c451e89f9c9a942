"""Which files are images: every raster format that Pillow decodes by itself, told by the ending or the first bytes."""

from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath

NOT_READ = {
    "EPS", "WMF",  # drawings: another program renders them
    "MPEG",  # films, which Pillow knows but does not decode
    "BUFR", "GRIB", "HDF5",  # measurements, which it does not decode either
    "FITS",  # measurements, whose compressed form it unpacks pixel by pixel, without bound
}  # fmt: skip
# What begins a file that has no ending: formats whose beginning cannot be anything else.
BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n", b"qoif",
    b"8BPS",
)  # fmt: skip
HEAD = 16  # bytes that are looked at
FOLDERS_OF_TOOLS = {
    "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
}  # fmt: skip
FILES_OF_TOOLS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, the common ones first, as Pillow itself tries them."""
    from PIL import Image

    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


@cache
def endings() -> frozenset[str]:
    """Endings of file names of these formats, in lower case."""
    from PIL import Image

    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats())


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file holds an image, by its ending, and without one by its first bytes."""
    ending = PurePosixPath(name).suffix.lower()
    return ending in endings() if ending else _begins_as_image(head())


def of_a_tool(part: str) -> bool:
    """Whether a part of a path is what programs leave beside images: hidden files, previews, attributes, waste."""
    known = part in FOLDERS_OF_TOOLS or part.lower() in FILES_OF_TOOLS or part.endswith(".lrdata")
    return known or (part.startswith(".") and part not in (".", ".."))


def _begins_as_image(head: bytes) -> bool:
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:12] in (b"ftypavif", b"ftypavis")
    return riff or avif or head.startswith(BEGINNINGS)
