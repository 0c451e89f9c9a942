"""Captions of digits say only what the image shows."""

import pytest
import torch

from deme_core.data.digit_captions import INK, SLANT, WORDS, captions_of_digits, ink, slant
from deme_core.data.images import DataParams, split
from deme_core.data.sources import read_digits
from deme_core.errors import InputError

DIGITS = read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2))
TRAIN, _ = split(DIGITS, 0.2, "data.held_out")


def stroke(*columns: int) -> torch.Tensor:
    """An image with one dot a row, at the given columns from the top."""
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[0, 0, torch.arange(len(columns)), torch.tensor(columns)] = 255
    return image


def test_slant_is_the_columns_to_the_right_for_each_row_up() -> None:
    assert slant(stroke(7, 6, 5, 4)).item() == pytest.approx(1)
    assert slant(stroke(2, 3, 4, 5)).item() == pytest.approx(-1)
    assert slant(stroke(3, 3, 3, 3)).item() == pytest.approx(0)
    assert slant(stroke(3)).item() == 0
    assert slant(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).item() == 0


def test_ink_is_the_share_of_the_image() -> None:
    assert ink(stroke(1, 1, 1, 1)).item() == pytest.approx(4 / 64)


def test_the_thresholds_are_the_quartiles_of_the_training_part() -> None:
    ends = torch.tensor([0.25, 0.75], dtype=torch.float64)
    for values, table in ((ink(TRAIN.pixels), INK), (slant(TRAIN.pixels), SLANT)):
        found = torch.stack([values[TRAIN.labels == label].quantile(ends) for label in range(10)])
        assert (found - torch.tensor(table, dtype=torch.float64)).abs().max() < 6e-4


def test_every_caption_names_its_label_and_no_other() -> None:
    for label, captions in zip(DIGITS.labels.tolist(), captions_of_digits(DIGITS.pixels, DIGITS.labels), strict=True):
        assert len(captions) == len(set(captions))
        for caption in captions:
            said = [i for i in range(10) if {WORDS[i], str(i)} & set(caption.split())]
            assert said == [label], caption


def test_a_word_of_shape_is_said_only_where_it_is_measured() -> None:
    captions = [" | ".join(of_one) for of_one in captions_of_digits(TRAIN.pixels, TRAIN.labels)]
    for label in range(10):
        of_label = TRAIN.labels == label
        for word, values, above in (
            ("thick", ink(TRAIN.pixels), True), ("thin", ink(TRAIN.pixels), False),
            ("right", slant(TRAIN.pixels), True), ("left", slant(TRAIN.pixels), False),
        ):  # fmt: skip
            said = torch.tensor([word in text for text in captions])
            a, b = values[of_label & said], values[of_label & ~said]
            if len(a):
                assert (a.min() > b.max()) if above else (a.max() < b.min()), (label, word)
            if word in ("thick", "thin"):
                assert 0.2 < said[of_label].float().mean() < 0.3
    said = torch.tensor(["slanted left" in text for text in captions])
    assert not said[TRAIN.labels == 7].any()  # a seven's stem leans right, even that of the least slanted ones


def test_captions_of_an_image_do_not_depend_on_the_others() -> None:
    together = captions_of_digits(DIGITS.pixels[:20], DIGITS.labels[:20])
    alone = [captions_of_digits(DIGITS.pixels[k : k + 1], DIGITS.labels[k : k + 1])[0] for k in range(20)]
    assert list(together) == alone
    assert captions_of_digits(DIGITS.pixels[:0], DIGITS.labels[:0]) == ()


def test_other_images_and_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"pixels torch\.uint8 \[1, 3, 8, 8\] for 1 labels: captions are of"):
        captions_of_digits(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match=r"labels from -1 to -1: digits are labelled 0 … 9"):
        captions_of_digits(stroke(1), torch.tensor([-1]))
