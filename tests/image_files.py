"""Image files of every kind, for the tests of what reads them."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deme_core.data.formats import endings
from deme_core.data.images import DataParams, Images
from deme_core.data.sources import read_parts


def read(source: str, path: Path | str, **options: Any) -> Images:
    defaults = {"size": 8, "held_out": 0.0}
    return read_parts(DataParams(source=source, path=str(path), **defaults | options))["train"]


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def users_images() -> dict[str, bytes]:
    """Name -> bytes: sizes, modes and formats mixed, all of them readable."""
    return {
        "a.png": encoded(noise(8, 8)),
        "b/wide.jpg": encoded(noise(40, 20), "JPEG"),
        "b/c/tall.webp": encoded(noise(10, 31), "WEBP"),
        "grey.png": encoded(noise(9, 9, "L")),
        "transparent.png": encoded(noise(12, 12, "RGBA")),
        "palette.bmp": encoded(noise(16, 16, "P"), "BMP"),
        "print.jpg": encoded(noise(16, 16, "CMYK"), "JPEG"),
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


BROKEN = {"empty.png": b"", "corrupt.jpg": b"\xff\xd8\xff\xe0 no picture", "half.png": encoded(noise(64, 64))[:500]}


def idx_bytes(values: np.ndarray, magic: bytes | None = None) -> bytes:
    header = magic or bytes([0, 0, 8, values.ndim])
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def of_every_format() -> dict[str, bytes]:
    """Ending -> a file, of all formats that Pillow both writes and reads."""
    Image.init()
    files = {}
    for ending in sorted(endings()):
        for mode in ("RGB", "L", "P", "1"):
            buffer = io.BytesIO()
            try:
                noise(16, 16, mode).save(buffer, Image.registered_extensions()[ending])
            except (OSError, KeyError, ValueError):
                continue
            files[ending] = buffer.getvalue()
            break
    return files
