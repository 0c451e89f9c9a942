"""Table 3 and Fig. 9 of the paper: the techniques of DeMe one by one, and N and p."""

from pathlib import Path
from typing import Any

import pandas as pd

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
TECHNIQUES = ("", "consistency loss:", "projection:")


def ablation(table: pd.DataFrame, picture: Path) -> str:
    """The techniques of DeMe one by one."""
    merges = [model_name(model) for model in MERGES]
    cells, beside, known = [], [], dict[tuple[str, ...], Scores]()
    for row, of_row in table.groupby("row"):
        first: Any
        first, N = of_row.iloc[0], of_row["N"].iloc[0]
        words = f" {first['overrides']} "
        projection = next((word for word in ("none", "released") if f"projection={word} " in words), "foldable")
        techniques = ("1 range" if N == 1 else f"{N} ranges", "no" if "consistency=0 " in words else "yes",
                      "no" if projection == "none" else projection)  # fmt: skip
        steps = f"{N} × {first['iterations']:,}"
        scores = scores_of(of_row)
        changes = [_change(scores, model) for model in MERGES]
        cells.append([steps, "—" if N == 1 else "yes", *techniques[1:], *changes, PAPER_TABLE3.get(str(row), "—")])
        for other, of_other in reversed(known.items()):  # the last row that differs in one technique alone
            differs = [k for k in range(3) if techniques[k] != other[k]]
            if len(differs) == 1:
                added = f"{TECHNIQUES[differs[0]]} {techniques[differs[0]]}".strip()
                alike = [f"{TECHNIQUES[k]} {techniques[k]}".strip() for k in range(3) if k not in differs]
                beside.append(
                    [
                        added,
                        other[differs[0]],
                        ", ".join(alike),
                        *(_paired(scores, of_other, model) for model in MERGES),
                    ]
                )
                break
        known[techniques] = scores
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


def _paired(scores: Scores, others: Scores, model: str) -> str:
    """A model of one row of the ablation beside that of another."""
    both = {model: scores[model], UNTRAINED: others[model]}
    return f"{_change(both, model)}<br>({', '.join(number(seed, 1, '+') for seed in by_seed(both, model, UNTRAINED))})"


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
            change = against(scores, model, UNTRAINED, TRAIN).change
            cells[-1].append(_change(scores, model))
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


def _change(scores: Scores, model: str) -> str:
    change = against(scores, model, UNTRAINED, TRAIN).change
    return f"**{shown(change)}**" if change.high < 0 else shown(change)
