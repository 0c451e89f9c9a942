"""Whether the small networks among a run's extractors are for images of the run's shape, said before time is spent."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deme_core.fit import Shape
from deme_core.metrics.features import FeatureParams, read_config
from deme_core.metrics.judges import judge_folders
from deme_core.metrics.networks import NETWORKS
from deme_core.metrics.verdict import JudgeParams
from deme_core.params import check
from deme_core.prompts.settings import PromptParams


def check_extractors_fit(
    images: Shape | None,
    features: FeatureParams,
    search: Sequence[str],
    judges: JudgeParams,
    sets: Mapping[str, PromptParams],
) -> None:
    """Refuse extractors that are there, and for images of other channels or another size.

    Args:
        images: shape of the data, and of what the models make; None where the run has none.
        search: extractors beside that of `features`, `merge_search.extractors`.
        sets: of prompts, whose images may be brought to another size before they are measured.

    Raises:
        InputError: it names the extractor, the shape that it is for, and the run's.
    """
    if images is None:
        return
    check_fit("reference.extractor", features.extractor, images)
    for extractor in search:
        check_fit("merge_search.extractors", extractor, images)
    for folder in judge_folders(Path(judges.folder)):
        check_fit("judges.folder", str(folder), images)
    for name, prompts in sets.items():
        if prompts.reference is not None and prompts.size is not None:
            shape = (images[0], prompts.size, prompts.size)
            check_fit("reference.extractor", features.extractor, shape, f", by prompts.{name}.size")


def check_fit(key: str, extractor: str, images: Shape, where: str = "") -> None:
    """Refuse one extractor that is for other images; large networks resize theirs, and take any.

    Args:
        key: of the param that names it.
        where: the shape is set, if not by `data`.
    """
    if not (Path(extractor) / "config.json").is_file():
        return  # of which others tell that it is missing
    config = read_config(Path(extractor))
    if config["_class_name"] not in NETWORKS:
        return
    wanted = (config["channels"], *[config["size"]] * 2) if "size" in config else (config["channels"],)
    check(
        wanted == images[: len(wanted)], key, extractor,
        f"is for images of {_product(wanted)} (channels, height, width), and these have {_product(images)}{where}; name"
        " one that was trained on such images (python zoo/train_features.py makes one of a recipe.yaml)",
    )  # fmt: skip


def _product(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
