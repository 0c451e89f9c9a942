"""Captions of scikit-learn's digits: several templates a label; thick, thin, slanted only where the image is."""

import torch

from deme_core.errors import InputError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLAIN = (
    "a handwritten {word}", "the digit {digit}", "a {word}", "a handwritten digit {digit}", "the number {word}",
    "a picture of the number {digit}",
)  # fmt: skip
DESCRIBED = ("a {stroke}{word}{slant}", "a {stroke}handwritten {word}{slant}", "the {stroke}digit {digit}{slant}")

# Of each label's training images (`deme_core.data.images.split` with 0.2): the quartiles of ink and of slant. They are
# kept here, so that an image has the same captions whatever images it comes with.
INK = (
    (0.278, 0.338), (0.273, 0.327), (0.286, 0.330), (0.270, 0.329), (0.288, 0.325), (0.277, 0.322), (0.277, 0.330),
    (0.276, 0.317), (0.300, 0.346), (0.277, 0.332),
)  # fmt: skip
SLANT = (
    (-0.071, 0.016), (-0.099, 0.048), (-0.197, -0.075), (-0.132, -0.021), (-0.037, 0.043), (-0.071, 0.054),
    (-0.245, -0.160), (0.094, 0.183), (-0.056, 0.060), (-0.150, -0.003),
)  # fmt: skip
VISIBLE = 0.05
"""Columns a row: what leans less is called upright in any company."""


def captions_of_digits(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[tuple[str, ...], ...]:
    """The captions of each image, all of them true of it, the six plain ones first.

    pixels: uint8 [n, 1, 8, 8]; labels: int64 [n] in 0 … 9. A digit is thick or thin beyond the quartiles of its label's
    ink, and slanted beyond those of its label's slant where the slant is visible, too; else these words are not used.

    Raises:
        InputError: other shapes, another dtype, or a label outside 0 … 9.
    """
    if pixels.shape != (len(labels), 1, 8, 8) or pixels.dtype != torch.uint8:
        raise InputError(
            f"pixels {pixels.dtype} {list(pixels.shape)} for {len(labels)} labels: captions are of scikit-learn's"
            " digits, uint8 [n, 1, 8, 8]; use data.source=digits"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        raise InputError(f"labels from {labels.min()} to {labels.max()}: digits are labelled 0 … 9")
    measured = zip(labels.tolist(), ink(pixels).tolist(), slant(pixels).tolist(), strict=True)
    return tuple(_captions(*of_one) for of_one in measured)


def ink(pixels: torch.Tensor) -> torch.Tensor:
    """Mean brightness in [0, 1], float64 [n]: the area of the stroke as a share of the image."""
    return pixels.double().mean((1, 2, 3)) / 255


def slant(pixels: torch.Tensor) -> torch.Tensor:
    """Columns by which the ink moves right for each row up, float64 [n]; 0 for an image without ink or of one row.

    From the second moments about the centre of the ink: −Σ I·dx·dy / Σ I·dy², with y downwards.
    """
    image = pixels[:, 0].double()
    mass = image.sum((1, 2)).clamp(min=1)[:, None]
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in image.shape[1:])
    dx = columns - (image.sum(1) * columns).sum(1, keepdim=True) / mass
    dy = rows - (image.sum(2) * rows).sum(1, keepdim=True) / mass
    shear = torch.einsum("nyx,nx,ny->n", image, dx, dy)
    height = torch.einsum("nyx,ny,ny->n", image, dy, dy)
    return torch.where(height > 0, -shear / height.where(height > 0, torch.ones_like(height)), 0.0)


def _captions(label: int, ink: float, slant: float) -> tuple[str, ...]:
    thin, thick = INK[label]
    left, right = SLANT[label]
    stroke = "thin " if ink < thin else "thick " if ink > thick else ""
    lean = slant if abs(slant) > VISIBLE else 0.0
    leaning = " slanted left" if lean < min(left, 0) else " slanted right" if lean > max(right, 0) else ""
    templates = (*PLAIN, *DESCRIBED) if stroke or leaning else PLAIN
    texts = (t.format(word=WORDS[label], digit=label, stroke=stroke, slant=leaning) for t in templates)
    return tuple(text.replace("a eight", "an eight") for text in texts)
