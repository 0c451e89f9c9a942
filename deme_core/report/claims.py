"""What a study says holds: each claim with its interval over trainings, by all judges."""

from collections.abc import Iterator, Sequence

from deme_core.dag import AWAY, MATCHED, NEON, RANDOM, SOUP_FULL_RANGE, is_baseline
from deme_core.metrics.verdict import Verdict
from deme_core.report.text import model_name
from deme_core.report.verdicts import UNTRAINED, Scores, against, nulls, same, shown

TRAIN = "train"
WINNERS = ("merged", AWAY, NEON)  # that are held against the best baseline
CLAIMS = (  # what is said, of which model, beside which other
    ("ensemble better than base", "ensemble", UNTRAINED),
    ("merged with w = 1/N better than base", "merged_uniform", UNTRAINED),
    ("merged with searched w better than base", "merged", UNTRAINED),
    ("ensemble better than a full-range finetune of as many steps", "ensemble", "full_range"),
    ("merged with w = 1/N better than a full-range finetune of as many steps", "merged_uniform", "full_range"),
    ("ensemble better than a soup of N full-range finetunes", "ensemble", SOUP_FULL_RANGE),
    ("merged with w = 1/N better than a soup of N full-range finetunes", "merged_uniform", SOUP_FULL_RANGE),
    ("merged with w = 1/N better than brightness and contrast alone", "merged_uniform", MATCHED),
    *(
        (f"{step} better than {what}", step, other)
        for step in (AWAY, NEON)
        for what, other in (
            ("base", UNTRAINED),
            ("brightness and contrast alone", MATCHED),
            ("the ensemble", "ensemble"),
            ("a full-range finetune", "full_range"),
            ("random vectors, searched alike", RANDOM),
        )
    ),
    *(
        (f"{step} by ranges better than {what}", f"{step}+ranges", other)
        for step in (AWAY, NEON)
        for what, other in (
            ("base", UNTRAINED),
            ("one training of the full range", step),
            ("as many trainings of the full range", f"{step}+copies"),
            ("brightness and contrast alone", MATCHED),
            ("random vectors, searched alike", RANDOM),
        )
    ),
    *(
        (f"{step} by trainings of the full range better than base", f"{step}+copies", UNTRAINED)
        for step in (AWAY, NEON)
    ),
)


def is_other_training(model: str) -> bool:
    """Whether a step away from own samples was trained in another way than the shipped one."""
    return model.startswith((f"{AWAY}+", f"{NEON}+"))


def is_control(model: str) -> bool:
    """Whether the winners are held against a model as a baseline."""
    return is_baseline(model) and not is_other_training(model)


def claims(scores: Scores) -> str:
    """Which claims hold here, by all judges on the training part; none of a model that was not measured."""
    baselines = [m for m in scores if is_control(m) and not same(against(scores, m, UNTRAINED, TRAIN))]
    best = min(baselines, key=lambda model: against(scores, model, UNTRAINED, TRAIN).change.value, default=None)
    beside = [(f"{model} better than the best baseline, {model_name(best)}", model, best) for model in WINNERS if best]
    lines = ["What holds, by the mean of all judges on the training part:", ""]
    for claim, model, other in [*_of_each_draw(nulls(scores)), *beside]:
        if model not in scores or other not in scores:
            continue
        found = against(scores, model, other, TRAIN)
        said = "holds" if found.change.high < 0 else "the opposite is shown" if found.worse else "not shown"
        beyond = f"{shown(found.change)}; {_agreeing(found)}"
        kept = "they are the same model: every search kept 0"
        lines.append(f"- {claim}: **{said}**, {kept if same(found) else beyond}")
    return "\n".join(lines)


def _of_each_draw(draws: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The claims, those beside random vectors for each draw."""
    for claim, model, other in CLAIMS:
        if other != RANDOM:  # which stands for each draw
            yield claim, model, other
        else:
            yield from ((claim + f" (draw {k})" * (len(draws) > 1), model, draw) for k, draw in enumerate(draws, 1))


def _agreeing(found: Verdict) -> str:
    return f"{len(found.judges) - len(found.against)} of {len(found.judges)} judges beyond their interval"
