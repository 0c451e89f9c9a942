"""What decides between two weights: their scores on the confirming seeds, in pairs."""

from collections.abc import Sequence

import numpy as np

from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval, paired_interval
from deme_core.metrics.verdict import percent


def confirmed(scores: Sequence[float], zero: Sequence[float], ratio: bool) -> Interval:
    """The change against w = 0, paired over the confirming blocks: of the score, or in percent of it as a `ratio`.

    The distance of the base differs between blocks by more than finalists do; a ratio on the same noise does not.

    Raises:
        InputError: a score that has no ratio.
    """
    if not ratio:
        return paired_interval(scores, zero)
    if not (lowest := min(*scores, *zero)) > 0:
        raise InputError(
            f"merge_search: a confirming score is {lowest:g}, and a change is a ratio of scores above 0: the extractor"
            " does not tell these images from the data; take another reference.extractor, or merge_search.objective=kid"
        )
    return percent(paired_interval(np.log(scores), np.log(zero)))
