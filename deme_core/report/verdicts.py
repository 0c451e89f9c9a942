"""What leads the page of a run: the verdict of the judges, and what a reader needs to check it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from deme_core.dag import DEME, MATCHED, STEPS, is_baseline, is_random
from deme_core.metrics.intervals import Interval
from deme_core.metrics.verdict import JUDGE, Verdict, log_ratios, verdict_of
from deme_core.report.text import PARTS, markdown, model_name, number

Scores = Mapping[str, Mapping[str, ArrayLike]]
"""Model -> a score's name -> its values: [K] of K seed blocks, or [S, K] of S trainings on the same blocks."""
UNTRAINED = "pretrained"


def judges_of(scores: Scores, part: str) -> list[str]:
    """The names of the judges that measured a part."""
    end = f"_{part}"
    return [key[len(JUDGE) : -len(end)] for key in scores[UNTRAINED] if key.startswith(JUDGE) and key.endswith(end)]


def parts_of(scores: Scores) -> list[str]:
    """The parts of the real images that the judges measured."""
    return [part for part in PARTS if judges_of(scores, part)]


def ratios(scores: Scores, model: str, other: str, part: str) -> dict[str, np.ndarray]:
    """Judge -> `log_ratios` of a model beside another, on the same noise."""
    ours, theirs = ({key.removeprefix(JUDGE): blocks for key, blocks in scores[m].items()} for m in (model, other))
    return log_ratios(ours, theirs, part, judges_of(scores, part))


def against(scores: Scores, model: str, other: str, part: str) -> Verdict:
    """The verdict on a model beside another."""
    return verdict_of(ratios(scores, model, other, part))


def same(found: Verdict) -> bool:
    """Whether a model is what it stands beside: a search that kept 0 gives the base."""
    return found.change.low == found.change.high == 0


def nulls(scores: Scores) -> list[str]:
    """The draws of the null that were measured."""
    return [model for model in scores if is_random(model)]


def words(scores: Scores, model: str, part: str) -> str:
    """What is shown of a model on a part: a gain counts where every judge sees it and no random vectors reach it."""
    found = against(scores, model, UNTRAINED, part)
    if same(found):
        return "the base itself"
    if found.better:
        compared = [] if is_random(model) or model == MATCHED else nulls(scores)
        reached = [null for null in compared if against(scores, model, null, part).change.high >= 0]
        return f"no gain: {', '.join(map(model_name, reached))} reached it" if reached else "better"
    if found.worse:
        return "worse"
    if found.change.high < 0:
        return f"judges disagree: {', '.join(found.against)} saw no gain"
    return "no gain shown"


def floor_section(scores: Scores, floor: Mapping[str, float], real: int, images: int) -> list[str]:
    """How near real images of the training part come to the held-out part; nothing without one.

    So few real images are held out that most of any distance to them is there for real images, too: a gain on that part
    is to be read beside this one.

    Args:
        floor: judge -> distance to the held-out part of so many `real` training images.
        images: of a model in a seed block; more than `real` where there are no more.
    """
    base = {judge: float(np.asarray(scores[UNTRAINED][f"{JUDGE}{judge}_heldout"]).mean()) for judge in floor}
    if not floor or min(*base.values(), *floor.values()) <= 0:
        return []
    logs = {judge: math.log(distance / base[judge]) for judge, distance in floor.items()}
    shares = {"": sum(logs.values()) / len(logs), **logs}
    change, *each = (number(100 * math.expm1(share), 1, "+") for share in shares.values())
    said = ", ".join(f"`{judge}` {value}" for judge, value in zip(logs, each, strict=True))
    fewer = f", which read higher than the models' {images:,} do: the true floor is lower" if real < images else ""
    return [
        f"On the {PARTS['heldout']} real images of the {PARTS['train']}, {real:,} at a time, read {change} % ({said} %)"
        f"{fewer or ': a model that reads so is as near to it as real images are'}."
    ]


def verdict(scores: Scores, group: str) -> str:
    """The verdict of the judges, called `group`, on the merge with searched weights and the steps along directions."""
    shown_here = [model for model in ("merged", *STEPS) if model in scores]
    found = [f"{model_name(m)}: {_verdict_on(scores, m, shown_here[:k])}." for k, m in enumerate(shown_here)]
    return (
        f"**Verdict** of the {group}, in change of distance against the pretrained model, geometric mean over the"
        f" judges. {' '.join(found)}"
    )


def _verdict_on(scores: Scores, model: str, before: Sequence[str]) -> str:
    """What is said of a model, or which of those `before` it equals."""
    found = {part: against(scores, model, UNTRAINED, part) for part in parts_of(scores)}
    if all(map(same, found.values())):
        return "the search kept w = 0, this is the pretrained model"
    for other in before:
        if all(same(against(scores, model, other, part)) for part in found):
            return f"the same model as {model_name(other)}"
    return "; ".join(
        f"on the {PARTS[part]} {shown(seen.change)}, worst judge `{seen.worst}` {shown(seen.judges[seen.worst])},"
        f" **{words(scores, model, part)}**"
        for part, seen in found.items()
    )


def lead(
    table: pd.DataFrame, scores: Scores, group: str, floor: Mapping[str, float], floor_images: int
) -> list[str]:  # fmt: skip
    """The first paragraphs and the first table of the page.

    Args:
        table: of `deme_core.report.tables.results`.
        group: what the judges of this run are called.
        floor, floor_images: distances of real images, and of how many, as `floor_section` takes them.
    """
    parts = parts_of(scores)
    found = {(model, part): against(scores, model, UNTRAINED, part) for model in scores for part in parts}
    others = [model for model in (*STEPS, *nulls(scores), MATCHED) if model in scores]
    beside = "; ".join(f"{model_name(m)} {shown(found[m, parts[0]].change)}" for m in others)
    merged: Any = table.loc["merged"]
    optimised = number(merged["frechet_train_change_percent"], 1, "+")
    judges = ", ".join(f"`{judge}`" for judge in judges_of(scores, parts[0]))
    return [
        verdict(scores, group),
        f"Beside it, on the {PARTS[parts[0]]}: {beside}. By the search's own extractor, which it optimised, the merge"
        f" changes the Fréchet distance by {optimised} %; that number is no evidence.",
        markdown(*judged(scores)),
        *floor_section(scores, floor, floor_images, merged["images"] // merged["seed_blocks"]),
        *_beside_the_best_baseline(
            scores, {m: seen.change.value for (m, part), seen in found.items() if part == parts[0]}
        ),
        f"Judges: {judges} of `{merged['judges']}`, which no search has seen. {HOW_TO_READ} over the seed"
        " blocks. The intervals cover the luck of sampling; that of training needs several seeds (`make table1`).",
    ]


HOW_TO_READ = (
    "Each cell is the ratio of a model's distance to the pretrained model's on the same noise, as a change in percent."
    " *Better* needs every judge's interval below 0, and the model below each draw of random vectors: as many as there"
    " are experts, of the same norms tensor by tensor, with the same search. Intervals (95 %) are of the logarithm,"
)


def judged(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of every model beside the pretrained one: all judges, each of them, and what they show."""
    first, *rest = parts = parts_of(scores)
    judges = judges_of(scores, first)
    header = ["model", f"all judges, {PARTS[first]}<br>[95 %]", *(f"`{judge}`" for judge in judges)]
    header += [f"all judges, {PARTS[part]}<br>[95 %]" for part in rest]
    header += [f"verdict, {PARTS[part]}" for part in parts]
    rows = []
    for model in scores:
        if model == UNTRAINED:
            continue
        found = {part: against(scores, model, UNTRAINED, part) for part in parts}
        rows.append([
            model_name(model), shown(found[first].change), *(shown(found[first].judges[judge]) for judge in judges),
            *(shown(found[part].change) for part in rest), *(words(scores, model, part) for part in parts),
        ])  # fmt: skip
    return header, rows


def _beside_the_best_baseline(scores: Scores, changes: Mapping[str, float]) -> list[str]:
    """DeMe's models beside the baseline that the judges like best; nothing without baselines.

    Args:
        changes: model -> its change against the pretrained one by all judges.
    """
    baselines = [model for model in changes if is_baseline(model)]
    if not baselines:
        return []
    best, parts = min(baselines, key=changes.__getitem__), parts_of(scores)
    lines = []
    for model in DEME:
        found = [(against(scores, model, best, part), PARTS[part]) for part in parts]
        lines.append(
            f"- {model_name(model)}: "
            + "; ".join(f"{shown(seen.change)} on the {part}, worst judge `{seen.worst}`" for seen, part in found)
        )
    return [
        f"Beside the best baseline, {model_name(best)} (the lowest mean of the judges on the {PARTS[parts[0]]}, on the"
        " very seeds of this table, which favours the baselines):",
        "\n".join(lines),
    ]


def shown(change: Interval, digits: int = 1) -> str:
    """−12.3 % [−15.0, −9.5]."""
    value, low, high = (number(end, digits, "+") for end in (change.value, change.low, change.high))
    return f"{value} % [{low}, {high}]"


def experts_section(experts: pd.DataFrame, own_experts: pd.DataFrame, must_win: str) -> list[str]:
    """What the gate measured.

    Args:
        own_experts: of the finetune on own samples; no row without one.
    """
    if not len(experts):
        return ["## Experts", f"Not measured: gate.must_win = {must_win}."]
    rows, warning = [], []
    for row in [*experts.to_dict("records"), *own_experts.assign(expert="own samples").to_dict("records")]:
        name = f"{row['expert']}: {row['range']}"
        losses = [f"{row[key]:.5f}" for key in ("loss", "loss_against", "loss_trained")]
        change = Interval(row["change"], row["low"], row["high"])
        rows.append([name, model_name(row["against"]), *losses[:2], shown(change, 2), losses[2]])
        if row["against"] == UNTRAINED and not row["wins"]:
            warning.append(
                f"**EXPERT {row['expert']} DOES NOT BEAT THE BASE ON ITS OWN RANGE {row['range']}: what is merged of it"
                " is no learning.**"
            )
    return [
        "## Experts",
        *warning,
        "Denoising loss of each expert on its own range, over the part `validation` (that of the finetune on own"
        " samples over such that it has not seen), paired over images and noise with a 95 % interval over images; below"
        " 0 it has learned something that the other has not. A model whose loss on training images is far lower knows"
        " them by heart, and more training on them cannot help.",
        markdown(
            ["expert: range", "against", "its loss", "the other's", "change", "the other's on training images"], rows
        ),
    ]


def statistics_section(statistics: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Plain statistics of each model's images beside the real ones'; channels are joined by a slash."""
    names = list(next(iter(statistics.values())))
    rows = [
        [name, *(" / ".join(f"{value:.4f}" for value in of_model[statistic]) for statistic in names)]
        for name, of_model in statistics.items()
    ]
    return [
        "## What a gain consists of",
        "Pixels in [0, 1], by channel: mean, standard deviation, mean absolute difference of neighbours along rows, and"
        " the shares of black and of white pixels.",
        markdown(["images of", *names], rows),
    ]
