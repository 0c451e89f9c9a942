"""Table 3 and Fig. 9 of the paper: the techniques of DeMe one by one, and N and p."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deme_core.metrics.intervals import Interval
from deme_core.report.claims import TRAIN
from deme_core.report.study_figures import sensitivity_curves
from deme_core.report.text import markdown, model_name, number
from deme_core.report.training_seeds import INTERVALS, by_seed, scores_of
from deme_core.report.verdicts import UNTRAINED, Scores, against, shown

# FID of the paper's Table 3 (CIFAR10, DDIM-100), for the eye alone: other models, other images, other features.
PAPER_TABLE3 = {"1": "4.40", "2": "4.45", "3": "4.32", "4": "4.27", "5": "3.87"}
CHANGE = (
    "Change of the distance to the training part against the pretrained model, the geometric mean over all judges;"
    " lower is better, bold where its interval lies below 0"
)
MERGES = ("ensemble", "merged_uniform")
PROJECTIONS = {"none": "no", "released": "released"}  # as an override says it -> as the table does
RANGES, CONSISTENCY, PROJECTION = "ranges", "consistency loss", "projection"


def ablation(table: pd.DataFrame, picture: Path) -> str:
    """The techniques of DeMe one by one."""
    merges = [model_name(model) for model in MERGES]
    cells, beside, rows = [], [], list[tuple[dict[str, str], Scores]]()
    for row, of_row in table.groupby("row"):
        first: Any
        first, scores, techniques = of_row.iloc[0], scores_of(of_row), techniques_of(of_row.iloc[0])
        steps, several = f"{first['N']} × {first['iterations']:,}", "—" if first["N"] == 1 else "yes"
        changes = [_bold(_change(scores, model)) for model in MERGES]
        paper = PAPER_TABLE3.get(str(row), "—")
        cells.append([steps, several, techniques[CONSISTENCY], techniques[PROJECTION], *changes, paper])
        beside += _beside_the_row_without(techniques, scores, rows)
        rows.append((techniques, scores))
    header = ["N × steps", "probabilistic sampling", "consistency loss", "channel projection"]
    return "\n\n".join(
        [
            f"# Table 3: ablation over {table['seed'].nunique()} training seeds",
            f"{CHANGE}.",
            markdown([*header, *merges, "the paper's FID, CIFAR10"], cells),
            "With N = 1 both columns are the finetuned model itself. A projection that folds is one more factor of a"
            " convolution that is there already: it changes how the optimizer moves, not what the model can express."
            f" `released` is the authors' placement. Intervals (95 %) {INTERVALS}.",
            "## Each technique beside the row without it",
            "By the same training seeds and the same noise, whose luck cancels in part; below each training seed.",
            markdown(["technique", "not", "with", *merges], beside),
        ]
    )


def techniques_of(row: Any) -> dict[str, str]:
    """What a row of the ablation has, by what its overrides say."""
    words = f" {row['overrides']} "
    return {
        RANGES: "1 range" if row["N"] == 1 else f"{row['N']} ranges",
        CONSISTENCY: "no" if "consistency=0 " in words else "yes",
        PROJECTION: next((told for name, told in PROJECTIONS.items() if f"projection={name} " in words), "foldable"),
    }


def _beside_the_row_without(
    techniques: dict[str, str], scores: Scores, rows: Sequence[tuple[dict[str, str], Scores]]
) -> list[list[str]]:
    """The line of a row beside the last one before it that differs in one technique alone; none where none does."""
    for others, of_others in reversed(rows):
        differs = [name for name in techniques if techniques[name] != others[name]]
        if len(differs) == 1:
            alike = ", ".join(_told(name, techniques) for name in techniques if name not in differs)
            paired = [_paired(scores, of_others, model) for model in MERGES]
            return [[_told(differs[0], techniques), others[differs[0]], alike, *paired]]
    return []


def _told(name: str, techniques: dict[str, str]) -> str:
    return techniques[name] if name == RANGES else f"{name}: {techniques[name]}"


def _paired(scores: Scores, others: Scores, model: str) -> str:
    """A model of one row of the ablation beside that of another."""
    both = {model: scores[model], UNTRAINED: others[model]}
    by_training = ", ".join(number(value, 1, "+") for value in by_seed(both, model, UNTRAINED))
    return f"{_bold(_change(both, model))}<br>({by_training})"


def sensitivity(table: pd.DataFrame, picture: Path) -> str:
    """N and p."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    cells = []
    for (curve, x), of_point in table.groupby(["curve", "x"]):
        first = of_point.iloc[0]
        cells.append(
            [str(curve), f"{x:g}", f"{first['N']} × {first['iterations']:,} = {first['N'] * first['iterations']:,}"]
        )
        scores = scores_of(of_point)
        for model in MERGES:
            change = _change(scores, model)
            cells[-1].append(_bold(change))
            line = curves.setdefault(str(curve), {}).setdefault(model, [])
            line.append({"x": x, **vars(change), "seeds": by_seed(scores, model, UNTRAINED)})
    lines = {curve: {model: pd.DataFrame(line) for model, line in models.items()} for curve, models in curves.items()}
    sensitivity_curves(picture, lines, {model: model_name(model) for model in MERGES})
    header = ["curve", "value", "training steps", *map(model_name, MERGES)]
    return "\n\n".join(
        [
            f"# Fig. 9: sensitivity to N and p over {table['seed'].nunique()} training seeds",
            f"![sensitivity]({picture.name})",
            f"{CHANGE}. p is the probability of drawing a timestep from the FULL range, as in Eq. 6: p = 1 trains N"
            " models on everything. The prose of the paper's Appendix F names the two ends the other way round.",
            markdown(header, cells),
            f"Intervals (95 %) {INTERVALS}.",
        ]
    )


def _change(scores: Scores, model: str) -> Interval:
    return against(scores, model, UNTRAINED, TRAIN).change


def _bold(change: Interval) -> str:
    return f"**{shown(change)}**" if change.high < 0 else shown(change)
