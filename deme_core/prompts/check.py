"""What prompt sets a run cannot have, said before time is spent."""

from collections.abc import Mapping
from pathlib import Path

from deme_core.inputs import UNCHANGING
from deme_core.params import check
from deme_core.prompts.settings import PromptParams
from deme_core.prompts.table import SOURCES, load_prompts

OF_THE_RUN = Path("data/images")  # what the stage data writes


def check_sets(sets: Mapping[str, PromptParams], *, captions: bool) -> None:
    """Refuse sets whose source is unknown, or whose file is missing, unreadable or too short.

    What the run itself makes is not there yet, and of what stands in the place of a missing file nothing is known.

    Args:
        captions: whether the run's own images have some.

    Raises:
        InputError: that of `load_prompts`, or there will be no captions.
    """
    for name, prompts in sets.items():
        key = f"prompts.{name}.source"
        check(prompts.source in SOURCES, key, prompts.source, f"known are {', '.join(SOURCES)}")
        if prompts.source == "heldout" and Path(prompts.path) == OF_THE_RUN:
            rule = "the run's images have no captions; name their column with data.captions, or take another source"
            check(captions, key, prompts.source, rule)
        elif prompts.path != UNCHANGING:
            load_prompts(name, prompts)
