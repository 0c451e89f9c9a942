"""Reading ZIP archives of others: what cannot be unpacked is said beforehand, and nothing unpacks without bound."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deme_core.errors import InputError
from deme_core.naming import named, said

METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
ODD = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
WITHIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # give no more than they are asked for
ENCRYPTED = 1  # a bit of an entry's flags
PIECE = 4096  # bytes that other methods are asked for, and as many packed ones are what they take


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive in a file.

    Raises:
        InputError: there is no whole archive in it.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises what it stumbles over in a damaged directory
        raise InputError(f"{path}: no whole ZIP archive ({said(error)}); fetch it again") from None
    with archive:
        yield archive


def entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive by name; of several with one name the last, as every unpacker leaves it.

    Raises:
        InputError: files are encrypted, or packed by a method that Python does not unpack.
    """
    found = {info.filename: info for info in archive.infolist() if not info.filename.endswith("/")}
    if locked := [name for name, info in found.items() if info.flag_bits & ENCRYPTED]:
        raise InputError(f"{archive.filename}: {named(locked)} are encrypted; unpack them, and read the folder")
    if odd := [name for name, info in found.items() if info.compress_type not in METHODS]:
        methods = sorted({ODD.get(kind := found[name].compress_type, f"method {kind}") for name in odd})
        raise InputError(
            f"{archive.filename}: {named(odd)} are packed by a method that is not read ({', '.join(methods)}); unpack"
            " them and read the folder, or pack them again by deflate"
        )
    return found


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of a file in an archive, of at most `most`.

    Raises:
        Exception: it is larger or damaged; zipfile and its decompressors raise what they stumble over.
    """
    if info.file_size > most:
        raise ValueError(f"unpacks to {info.file_size:,} bytes, at most {most:,} are read")
    data = bytearray()
    with archive.open(info) as file:
        at_once = info.file_size if info.compress_type in WITHIN else PIECE
        while len(data) < info.file_size and (piece := file.read(at_once)):
            data += piece
    if len(data) != info.file_size:
        raise ValueError(f"holds {len(data):,} bytes, {info.file_size:,} are announced")
    return bytes(data)
