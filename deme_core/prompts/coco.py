"""MS-COCO (Lin et al. 2014, arXiv 1405.0312): one caption of each validation image."""

import hashlib
from pathlib import Path

from deme_core.errors import InputError
from deme_core.json_files import parse_json
from deme_core.naming import named, said
from deme_core.prompts.text_files import read_text

WHERE = "captions_val2014.json lies in annotations_trainval2014.zip of https://cocodataset.org/#download"


def read_coco(path: Path) -> list[str]:
    """One caption an image of a captions JSON: the first one, by the annotations' ids.

    The images come in an order that looks random and is always the same, that of the SHA-256 of their ids: the first
    30,000 of them are a fair choice, and a longer choice begins with a shorter one.
    """
    text = read_text(path, "captions in COCO's format", WHERE)
    captions: dict[int, tuple[int, str]] = {}
    blank = set()
    try:
        for row in parse_json(text)["annotations"]:
            image, caption = _whole(row["image_id"]), (_whole(row["id"]), " ".join(row["caption"].split()))
            if caption[1]:
                captions[image] = min(caption, captions.get(image, caption))
            else:
                blank.add(image)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a captions JSON of COCO, whose `annotations` have id, image_id and caption"
            f" ({type(error).__name__}: {said(error)}); {WHERE}"
        ) from None
    if bare := sorted(blank - captions.keys()):
        print(f"{path}: left out images whose captions are blank: {named(bare)}")
    order = sorted(captions, key=lambda image: hashlib.sha256(str(image).encode()).digest())
    return [captions[image][1] for image in order]


def _whole(number: int | str) -> int:
    """An id, which some tools write as a string; int() would also cut a fraction off."""
    if isinstance(number, float | bool):
        raise ValueError(f"an id is {number!r}")
    return int(number)
