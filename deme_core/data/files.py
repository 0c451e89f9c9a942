"""Image files: folders or ZIP archives of them, at any depth, in the order of their names."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from deme_core.data.captions import METADATA, file_captions
from deme_core.data.decode import MOST_BYTES, decode_all
from deme_core.data.formats import HEAD, is_image, of_a_tool
from deme_core.data.images import DataParams, Images
from deme_core.data.walk import walk
from deme_core.errors import InputError
from deme_core.naming import named
from deme_core.paths import matches
from deme_core.zip_files import entries, open_zip, read_entry

Files = dict[str, Callable[[int], bytes]]
"""Name -> a function that reads a file, or at most so many bytes of it."""


def read_folder(params: DataParams) -> Images:
    """Every image file below the folder `data.path`, or in what it matches as a pattern."""
    return _read(*folder_files(params.path), params)


def folder_files(path: str | None) -> tuple[Files, list[str]]:
    """The files that a path of folders and files names, and what of it is no user's.

    Raises:
        InputError: there is none.
    """
    found = matches(path)
    exact = found == [Path(str(path))]
    if not found or (exact and found[0].is_file()):
        raise InputError(
            f"params: data.path = {path!r}: source 'folder' needs an existing folder of images, or a pattern as"
            " images/*.png"
        )
    of_user = [one for one in found if exact or not of_a_tool(one.name)]
    files, left_out = walk([one for one in of_user if one.is_dir()])
    left_out += [str(one) for one in found if one not in of_user]
    files += [one for one in of_user if not one.is_dir()]
    return {str(file): partial(_read_file, file) for file in files}, left_out


def read_zip(params: DataParams) -> Images:
    """Every image file in the ZIP archive `data.path`, or in all that it matches as a pattern."""
    paths = [path for path in matches(params.path) if path.is_file()]
    if not paths:
        raise InputError(f"params: data.path = {params.path!r}: source 'zip' needs an existing archive of images")
    files: Files = {}
    left_out: dict[str, None] = {}
    with ExitStack() as stack:
        for path in paths:
            archive = stack.enter_context(open_zip(path))
            for name, info in entries(archive).items():
                parts = PurePosixPath(name).parts
                tools = [k for k, part in enumerate(parts) if of_a_tool(part)]
                if tools:
                    left_out[f"{path}/{'/'.join(parts[: tools[0] + 1])}"] = None
                else:
                    files[f"{path}/{name}"] = partial(_read_entry, archive, info)
        return _read(files, list(left_out), params)


def image_names(files: Mapping[str, Callable[[int], bytes]], left_out: Sequence[str], where: object) -> list[str]:
    """The names of the images among files, sorted; says which others there are, and refuses where there is none."""
    found = sorted(name for name, read in files.items() if is_image(name, partial(_head, read)))
    chosen = set(found)
    said = [
        *([_no_images(others)] if (others := sorted(name for name in files if name not in chosen)) else []),
        *([f"of tools or linked twice: {named(left_out)}"] if left_out else []),
    ]
    if not found:
        raise InputError(
            f"{where}: no image found; expected files ending in .bmp, .gif, .jpg, .png, .tif, .webp or another format"
            f" that Pillow decodes{'; left out: ' + '; '.join(said) if said else ''}"
        )
    if said:
        print(f"{where}: left out {'; '.join(said)}")
    return found


def _read(files: Files, left_out: list[str], params: DataParams) -> Images:
    tables = sorted(name for name in files if PurePosixPath(name).name in METADATA) if params.captions else []
    rest = {name: read for name, read in files.items() if name not in tables}
    names = image_names(rest, left_out, params.path)
    captions = None
    if params.captions is not None:
        captions = file_captions(tables, lambda name: files[name](MOST_BYTES), names, params)
    rows = ((name, partial(files[name], MOST_BYTES)) for name in names)
    return decode_all(rows, len(names), params, captions)


def _no_images(names: list[str]) -> str:
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    return f"no images: {named(names)}, {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}"


def _head(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(-HEAD)
    except Exception:  # what cannot be read is no image by its content
        return b""


def _read_file(path: Path, most: int) -> bytes:
    """The bytes of a file, at most `most` of them; −k gives the first k of any."""
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError("leads to no file")
    with path.open("rb") as file:
        if most < 0:
            return file.read(-most)
        if (size := path.stat().st_size) > most:
            raise ValueError(f"{size:,} bytes, at most {most:,} are read")
        return file.read()


def _read_entry(archive: ZipFile, info: ZipInfo, most: int) -> bytes:
    if most < 0:
        with archive.open(info) as file:
            return file.read(-most)
    return read_entry(archive, info, most)
