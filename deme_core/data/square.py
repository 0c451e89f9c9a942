"""One encoded image of any kind and size -> a square of one size, upright."""

import io
import threading
import warnings
from contextlib import nullcontext

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from deme_core.data.formats import formats
from deme_core.data.images import DataParams
from deme_core.seeds import step_seed

MEMORY = 9 * 10**8  # bytes that decoding one image may take
# Of them a pixel takes four as Pillow holds it, and as many once converted or turned; some decoders have own copies.
A_PIXEL = {"JPEG2000": 24, "AVIF": 16, "WEBP": 16}
LARGE = 2**23  # pixels; larger images are decoded one at a time
_one_at_a_time = threading.Lock()

# Pillow refuses twice this number, in images within images, too, and warns of less, which is ours to judge.
Image.MAX_IMAGE_PIXELS = MEMORY // 8 // 2
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# In blocks of more than 32 MiB, since what a thread frees of smaller ones glibc keeps for that thread.
Image.core.set_block_size(2**26)

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def to_square(data: bytes, params: DataParams, index: int) -> np.ndarray:
    """uint8 [C, size, size] of one encoded image: upright, short side to `data.size`, and the longer side cropped.

    A random crop is a function of `index` alone.

    Raises:
        Exception: it is no whole image, or too large to decode; Pillow raises what it stumbles over.
    """
    return square_and_frames(data, params, index)[0]


def square_and_frames(data: bytes, params: DataParams, index: int) -> tuple[np.ndarray, bool]:
    """The square of an image's first frame, and whether there are others."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
        pixels, most = image.width * image.height, MEMORY // A_PIXEL.get(str(image.format), 8)
        if pixels > most:
            raise ValueError(f"{image.width}×{image.height} pixels, at most {most:,} of {image.format} are read")
        with _one_at_a_time if pixels > LARGE else nullcontext():
            square = _square(image, params, index)
        return square, _has_more(image)


def _square(image: Image.Image, params: DataParams, index: int) -> np.ndarray:
    upright, mode = _turned(image), "L" if params.grey else "RGB"
    upright = upright if upright.mode == mode else upright.convert(mode)
    centre = (0.5, 0.5)
    if params.crop == "random":
        u, v = torch.rand(2, generator=torch.Generator().manual_seed(step_seed("crop", index))).tolist()
        centre = (u, v)
    square = ImageOps.fit(upright, (params.size,) * 2, Image.Resampling[params.resize.upper()], centering=centre)
    return np.asarray(square).reshape(params.size, params.size, -1).transpose(2, 0, 1)


def _turned(image: Image.Image) -> Image.Image:
    """The image as its camera was held."""
    image.load()
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """What EXIF says, 1 … 8, whatever type its number has; 1 where nothing can be made of it, as viewers do.

    ImageOps.exif_transpose would also write all of EXIF again, and fail at any other odd tag of the photograph.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value[0] if isinstance(value, tuple | list | bytes) else value)
    except Exception:  # Pillow raises what it stumbles over
        return 1


def _has_more(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of damaged frames that are not read
        return False
