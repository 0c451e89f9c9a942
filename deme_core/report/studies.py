"""The reports of the studies, over several trainings each: Tables 1 and 3 and Fig. 9 of the paper."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deme_core.dag import is_rival
from deme_core.metrics.intervals import Interval, crossed_interval
from deme_core.report.figures import forest, sensitivity_curves
from deme_core.report.tables import FRECHET, training_steps
from deme_core.report.text import markdown, model_name, number

# FID of the paper's Table 1 (columns CIFAR10, LSUN-Church, LSUN-Bedroom) and Table 3 (CIFAR10, DDIM-100), for the eye
# alone: other models, other images, other features.
PAPER_TABLE1 = {
    "pretrained": "4.42 / 10.69 / 6.46", "snr_plus_one": "5.41 / 10.80 / 6.41", "truncated_snr": "4.49 / 10.81 / 6.42",
    "min_snr": "5.77 / 10.82 / 6.41", "ensemble": "3.79 / 9.57 / 5.87", "merged": "3.51 / 7.27 / 5.84",
}  # fmt: skip
PAPER_TABLE3 = {"1": "4.40", "2": "4.45", "3": "4.32", "4": "4.27", "5": "3.87"}
INTERVALS = (
    "Intervals (95 %) cover both lucks, that of training (seeds) and that of sampling (blocks of noise, which all"
    " models share); none is widened for the number of comparisons. ± is the standard deviation over the seeds."
)


def write_report(study: str, points: pd.DataFrame, rows: pd.DataFrame, directory: Path, planned: pd.Series) -> None:
    """Write directory/STUDY.md, and its picture.

    Args:
        points: a row a point and seed: what places it in the report, and the `experiment` that measured it.
        rows: a row an experiment and model: its metrics, its scores on each seed block.
        planned: curve -> training seeds that it has when the study is finished.
    """
    table = points.drop(columns="overrides").merge(rows.drop(columns="seed"), on="experiment")
    text = REPORTS[study](table, directory)
    seeds = table.groupby(curve_of(table))["seed"].nunique()
    found = [(curve, seeds.get(curve, 0), whole) for curve, whole in planned.items()]
    missing = [f"{curve} {n} of {whole}".strip() for curve, n, whole in found if n < whole]
    if missing:
        text += f"\n\n**Not finished: {', '.join(missing)} training seeds so far.** `make {study}` goes on."
    (directory / f"{study}.md").write_text(f"{text}\n\n{_protocol(table, study)}\n", encoding="utf-8")


def curve_of(points: pd.DataFrame) -> pd.Series:
    """The curve of each point; "" where the study has none."""
    return points["curve"] if "curve" in points else pd.Series("", index=points.index)


def block_differences(table: pd.DataFrame, model: str, other: str, key: str) -> np.ndarray:
    """[S, K] scores of `model` minus those of `other`: a row a training seed, a column a block of noise."""
    columns = [column for column in map(str, table) if column.startswith(f"{key}_block")]
    ours, theirs = (table[table["model"] == m].set_index("seed")[columns].sort_index() for m in (model, other))
    return (ours - theirs).to_numpy()


def percent_differences(table: pd.DataFrame, model: str, other: str, key: str) -> np.ndarray:
    """`block_differences` in percent of the pretrained model's plain score; negative where `model` is better."""
    base = abs(table.loc[table["model"] == "pretrained", key].mean())
    return 100 * block_differences(table, model, other, key) / base


def difference(table: pd.DataFrame, model: str, other: str, key: str) -> Interval:
    """The mean of `percent_differences`."""
    return crossed_interval(percent_differences(table, model, other, key))


def table1(table: pd.DataFrame, directory: Path) -> str:
    """Every model beside the pretrained one, and the searched merge beside every other."""
    models, deme = list(dict.fromkeys(table["model"])), "merged"
    parts = [key for key in FRECHET if key in table]
    header = ["model"]
    for key in parts:
        header += [
            f"Fréchet distance, {FRECHET[key]}<br>mean ± over seeds",
            "against pretrained, %",
            "DeMe against it, %",
        ]
    header += ["KID, training part<br>mean ± over seeds", "copy rate", "training steps", "parameters", "MACs a step"]
    header += ["the paper's FID<br>CIFAR10 / Church / Bedroom"]
    changes = {key: {m: difference(table, deme, m, key) for m in models if m != deme} for key in parts}
    cells = []
    for model in models:
        own = table[table["model"] == model]
        row = [model_name(model)]
        for key in parts:
            row += [_spread(own[key], 3)]
            row += ["—" if model == "pretrained" else _percent(difference(table, model, "pretrained", key))]
            row += ["—" if model == deme else _percent(changes[key][model])]
        first = own.iloc[0]
        row += [_spread(own["kid_train"], 3), f"{100 * own['copy_rate'].mean():.1f} %"]
        row += [training_steps(model, first["N"], first["iterations"]), f"{first['parameters']:,}"]
        cells.append([*row, f"{first['macs_per_step']:,}", PAPER_TABLE1.get(model, "—")])
    shown = changes[parts[0]]
    rivals = {model: change for model, change in shown.items() if is_rival(model)}
    won = [model for model, change in rivals.items() if change.high < 0]
    lost = [model for model, change in rivals.items() if change.low > 0]
    open_ = [model for model in rivals if model not in won + lost]
    lines = [
        f"- {word}: {', '.join(map(model_name, group)) or 'none'}"
        for word, group in (("better than", won), ("no difference shown to", open_), ("worse than", lost))
    ]
    forest(
        directory / "table1.png",
        {model_name(m): (change, _by_seed(table, deme, m, parts[0])) for m, change in shown.items()},
        "DeMe − model, % of the pretrained model's distance",
        "Searched DeMe merge against each model; left: DeMe is better",
    )  # fmt: skip
    return "\n\n".join(
        [
            f"# Table 1: DeMe and its rivals over {table['seed'].nunique()} training seeds",
            "DeMe merged with searched weights, on the training part, by the interval of the difference:",
            "\n".join(lines),
            "![DeMe against each model](table1.png)",
            markdown(header, cells),
            "Lower is better. All trainings start from the same pretrained model and make the same number of steps with"
            " the same optimizer, batches and EMA; `searched scale` rivals had a search with at least as many images as"
            " DeMe's. " + INTERVALS,
            f"Weights that the searches found: {_weights(table)}.",
        ]
    )


def ablation(table: pd.DataFrame, directory: Path) -> str:
    """The techniques of DeMe one by one."""
    header = ["N × steps", "probabilistic sampling", "consistency loss", "channel projection"]
    header += ["before merge (ensemble), %", "w = 1/N, %", "the paper's FID, CIFAR10"]
    cells = []
    for row, own in table.groupby("row"):
        first: Any
        first, N = own.iloc[0], own["N"].iloc[0]
        words = f" {first['overrides']} "
        projection = next((word for word in ("none", "released") if f"projection={word} " in words), "foldable")
        changes = [_percent(difference(own, model, "pretrained", "frechet_train")) for model in MERGES]
        cells.append(
            [
                f"{N} × {first['iterations']:,}", "—" if N == 1 else "yes",
                "no" if "consistency=0 " in words else "yes", "no" if projection == "none" else projection,
                *changes, PAPER_TABLE3.get(str(row), "—"),
            ]
        )  # fmt: skip
    return "\n\n".join(
        [
            f"# Table 3: ablation over {table['seed'].nunique()} training seeds",
            "Change of the Fréchet distance to the training part against the pretrained model, in percent of it; lower"
            " is better.",
            markdown(header, cells),
            "With N = 1 both columns are the finetuned model itself. A projection that folds is one more factor of a"
            " convolution that is there already: it changes how the optimizer moves, not what the model can express."
            " `released` is the authors' placement. " + INTERVALS,
        ]
    )


def sensitivity(table: pd.DataFrame, directory: Path) -> str:
    """N and p."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    cells = []
    for (curve, x), own in table.groupby(["curve", "x"]):
        first = own.iloc[0]
        cells.append(
            [str(curve), f"{x:g}", f"{first['N']} × {first['iterations']:,} = {first['N'] * first['iterations']:,}"]
        )
        for model in MERGES:
            change = difference(own, model, "pretrained", "frechet_train")
            cells[-1].append(_percent(change))
            line = curves.setdefault(str(curve), {}).setdefault(model, [])
            line.append({"x": x, **vars(change), "seeds": _by_seed(own, model, "pretrained", "frechet_train")})
    lines = {curve: {model: pd.DataFrame(line) for model, line in own.items()} for curve, own in curves.items()}
    sensitivity_curves(directory / "sensitivity.png", lines, {model: model_name(model) for model in MERGES})
    header = ["curve", "value", "training steps", *(f"{model_name(model)}, %" for model in MERGES)]
    return "\n\n".join(
        [
            f"# Fig. 9: sensitivity to N and p over {table['seed'].nunique()} training seeds",
            "![sensitivity](sensitivity.png)",
            "Change of the Fréchet distance to the training part against the pretrained model, in percent of it; lower"
            " is better. p is the probability of drawing a timestep from the FULL range, as in Eq. 6: p = 1 trains N"
            " models on everything. The prose of the paper's Appendix F names the two ends the other way round.",
            markdown(header, cells),
            INTERVALS,
        ]
    )


MERGES = ("ensemble", "merged_uniform")
REPORTS: dict[str, Callable[[pd.DataFrame, Path], str]] = {
    "table1": table1, "ablation": ablation, "sensitivity": sensitivity,
}  # fmt: skip


def _by_seed(table: pd.DataFrame, model: str, other: str, key: str) -> list[float]:
    return percent_differences(table, model, other, key).mean(axis=1).tolist()


def _weights(table: pd.DataFrame) -> str:
    found = table[table["model"] == "merged"]
    return "; ".join(f"seed {seed}: {weights}" for seed, weights in zip(found["seed"], found["weights"], strict=True))


def _protocol(table: pd.DataFrame, study: str) -> str:
    row = table.iloc[0]
    return (
        f"Protocol: {row['images']:,} images a model from the seed block {row['seed_block']}, in {row['seed_blocks']}"
        f" blocks; sampler {row['sampler_kind']}, {row['sampler_steps']} steps, {row['sampler_spacing']} spacing,"
        f" {row['sampler_dtype']}; features of `{row['extractor']}`; {row['reference_images']:,} reference images;"
        f" training seeds {', '.join(map(str, sorted(table['seed'].unique())))}, one base. Made by"
        f" `make {study}`; every row of it: `{study}.csv`."
    )


def _spread(values: pd.Series, digits: int) -> str:
    return f"{number(values.mean(), digits)} ± {number(values.std(), digits)}"


def _percent(change: Interval) -> str:
    low, high = number(change.low, 1, "+"), number(change.high, 1, "+")
    text = f"{number(change.value, 1, '+')} [{low}, {high}]"
    return f"**{text}**" if change.high < 0 else text
