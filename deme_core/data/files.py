"""Image files: a folder or a ZIP archive of them, at any depth, in the order of their names."""

import zipfile
from functools import partial
from pathlib import Path, PurePosixPath

from deme_core.data.captions import METADATA, file_captions
from deme_core.data.decode import decode_all
from deme_core.data.images import DataParams, Images
from deme_core.errors import InputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def read_folder(params: DataParams) -> Images:
    """Every image file below the folder `data.path`."""
    root = Path(params.path or "")
    if params.path is None or not root.is_dir():
        raise InputError(f"params: data.path = {params.path!r}: source 'folder' needs an existing folder of images")
    files = image_names([str(file) for file in root.rglob("*") if file.is_file()], root)
    captions = None
    if params.captions is not None:
        tables = sorted(str(file) for name in METADATA for file in root.rglob(name))
        captions = file_captions(tables, lambda name: Path(name).read_bytes(), files, params)
    return decode_all(((file, Path(file).read_bytes) for file in files), len(files), params, captions)


def read_zip(params: DataParams) -> Images:
    """Every image file in the ZIP archive `data.path`."""
    path = Path(params.path or "")
    if params.path is None or not path.is_file():
        raise InputError(f"params: data.path = {params.path!r}: source 'zip' needs an existing archive of images")
    try:
        with zipfile.ZipFile(path) as archive:
            files = image_names(archive.namelist(), path)
            captions = None
            if params.captions is not None:
                tables = sorted(name for name in archive.namelist() if PurePosixPath(name).name in METADATA)
                captions = file_captions(tables, archive.read, files, params)
            rows = ((f"{path}/{file}", partial(_read, archive, file)) for file in files)
            return decode_all(rows, len(files), params, captions)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: no whole ZIP archive ({error}); fetch it again") from None


def _read(archive: zipfile.ZipFile, file: str) -> bytes:
    try:
        return archive.read(file)
    except zipfile.BadZipFile as error:  # a damaged entry is one unreadable image
        raise ValueError(str(error)) from None


def image_names(names: list[str], where: Path) -> list[str]:
    """The names of image files among `names`, sorted; refuses `where` they lie if there is none."""
    # Beside a picture, macOS puts a file of the same ending that holds no image, but its attributes.
    found = [name for name in names if not Path(name).name.startswith("._")]
    found = sorted(name for name in found if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"{where}: no image found; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found
