"""The reports of the studies, over several trainings each: Tables 1 and 3 and Fig. 9 of the paper."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from deme_core.dag import AWAY, NEON, is_random
from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval, block_interval
from deme_core.metrics.verdict import log_ratios, percent
from deme_core.report.browser import Bar, write_document
from deme_core.report.claims import TRAIN, claims, is_control, is_other_training
from deme_core.report.study_figures import forest
from deme_core.report.tables import training_steps
from deme_core.report.techniques import ablation, sensitivity
from deme_core.report.text import markdown, model_name, number
from deme_core.report.training_seeds import INTERVALS, by_seed, scores_of
from deme_core.report.verdicts import HOW_TO_READ, UNTRAINED, Scores, against, judged, shown

# FID of the paper's Table 1 (columns CIFAR10, LSUN-Church, LSUN-Bedroom), for the eye alone: other models, images and
# features.
PAPER_TABLE1 = {
    "pretrained": "4.42 / 10.69 / 6.46", "snr_plus_one": "5.41 / 10.80 / 6.41", "truncated_snr": "4.49 / 10.81 / 6.42",
    "min_snr": "5.77 / 10.82 / 6.41", "ensemble": "3.79 / 9.57 / 5.87", "merged": "3.51 / 7.27 / 5.84",
}  # fmt: skip
NULL = "Random vectors are drawn anew for each training seed."
SEARCHED = (
    "Every search had as many images as DeMe's, give or take a finalist. Its own extractor, which it optimised, is no"
    " evidence. "
)
NO_NULL = "This study has no random vectors beside it; those of the default run stand in its page."
GROUPS = {
    "baselines": is_control, "other trainings on own samples": is_other_training, "random vectors": is_random,
}  # fmt: skip


def write_report(
    study: str, kind: str, points: pd.DataFrame, rows: pd.DataFrame, directory: Path, planned: pd.Series
) -> None:  # fmt: skip
    """Write directory/STUDY.md, its picture, and the same page for a browser, STUDY.html.

    Args:
        kind: of report, a row of REPORTS.
        points: a row a point and seed: what places it in the report, and the `experiment` that measured it.
        rows: a row an experiment and model: its metrics, its scores on each seed block.
        planned: curve -> training seeds that it has when the study is finished.
    """
    table = points.drop(columns="overrides").merge(rows.drop(columns="seed"), on="experiment")
    check_protocol(table)
    text = REPORTS[kind](table, directory / f"{study}.png")
    seeds = table.groupby(curve_of(table))["seed"].nunique()
    found = [(curve, seeds.get(curve, 0), whole) for curve, whole in planned.items()]
    missing = [f"{curve} {n} of {whole}".strip() for curve, n, whole in found if n < whole]
    if missing:
        text += f"\n\n**Not finished: {', '.join(missing)} training seeds so far.** `make {study}` goes on."
    page = directory / f"{study}.md"
    page.write_text(f"{text}\n\n{_protocol(table, study)}\n", encoding="utf-8")
    write_document(page, _bars(scores_of(table)) if kind == "contest" else [])


def check_protocol(table: pd.DataFrame) -> None:
    """Refuse models that were measured in different ways, as those of another study may be after a change of its file.

    The block of the sampler and the device may differ, which move the last bits.

    Raises:
        InputError: it names what differs.
    """
    sampler = [key for key in map(str, table) if key.startswith("sampler_") and key != "sampler_block"]
    for key in ["images", "seed_block", "seed_blocks", "judges", "extractor", "reference_images", *sampler]:
        if len(found := table.get(key, pd.Series()).astype(str).unique()) > 1:
            models = ", ".join(f"{value} ({', '.join(_models_with(table, key, value))})" for value in found)
            raise InputError(f"{key}: {models}; a study compares models by one protocol: measure them anew (--again)")


def _models_with(table: pd.DataFrame, key: str, value: str) -> list[str]:
    return list(dict.fromkeys(table.loc[table[key].astype(str) == value, "model"]))


def _bars(scores: Scores) -> list[Bar]:
    """Every judged model beside the pretrained one."""
    found = {m: against(scores, m, UNTRAINED, TRAIN) for m in scores if m != UNTRAINED}
    return [(model_name(m), seen.change, [judge.value for judge in seen.judges.values()]) for m, seen in found.items()]


def curve_of(points: pd.DataFrame) -> pd.Series:
    """The curve of each point; "" where the study has none."""
    return points["curve"] if "curve" in points else pd.Series("", index=points.index)


def contest(table: pd.DataFrame, picture: Path) -> str:
    """Every model beside the pretrained one, which claims hold, and the leading model beside every other."""
    scores = scores_of(table)
    leads = (AWAY, NEON, "merged", "merged_uniform", *(model for model in scores if model != UNTRAINED))
    leading = next(model for model in leads if model in scores)
    name = model_name(leading)
    shown_beside = {m: against(scores, leading, m, TRAIN) for m in scores if m != leading}
    lines = []
    for kind, belongs in GROUPS.items():
        if not any(map(belongs, shown_beside)):
            continue
        groups: dict[str, list[str]] = {"better than": [], "no difference shown to": [], "worse than": []}
        for model, beside in shown_beside.items():
            if belongs(model):
                won = beside.change.high < 0
                groups["better than" if won else "worse than" if beside.worse else "no difference shown to"] += [
                    model_name(model)
                ]
        lines += [f"- {kind}, {word}: {', '.join(group) or 'none'}" for word, group in groups.items()]
    forest(
        picture,
        {model_name(m): (seen.change, by_seed(scores, leading, m)) for m, seen in shown_beside.items()},
        "change in % by all judges",
        f"{name}, against each model; left: it is better",
    )
    heading = f"{name}, on the training part, by the interval of the mean of all judges:"
    return "\n\n".join(
        [
            f"# `{picture.stem}`: models compared over {table['seed'].nunique()} training seeds",
            claims(scores),
            *([heading, "\n".join(lines)] if lines else []),
            f"![{name}, against each model]({picture.name})",
            markdown(*judged(scores)),
            f"{HOW_TO_READ} and {INTERVALS}. {NULL if any(map(is_random, scores)) else NO_NULL}",
            "## Seed by seed, and beside other measures",
            markdown(*_measures(table, scores)),
            "Lower is better, but for recall. All trainings start from the same pretrained model, with the same"
            f" optimizer, batches and EMA. {SEARCHED if _searched(table) else ''}"
            f"Copy rate of real held-out images: {_real_copies(table)}.",
            *([f"Weights of {name}: {found}."] if (found := _weights(table, leading)) else []),
        ]
    )


def _searched(table: pd.DataFrame) -> bool:
    """Whether a search made any of the models: weights that `away` has were set."""
    chosen = table[table["model"].str.partition("+")[0] != AWAY].reindex(columns=["weights"])
    return bool(chosen["weights"].notna().any())


def _measures(table: pd.DataFrame, scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what the judges do not say."""
    header = ["model", "all judges, each training seed, %", "the search's extractor<br>[95 %]", "copy rate", "recall"]
    header += ["training steps", "parameters", "MACs a step", "the paper's FID<br>CIFAR10 / Church / Bedroom"]
    rows = []
    for model in scores:
        of_model = table[table["model"] == model]
        first: Any = of_model.iloc[0]
        by_training = ", ".join(number(value, 1, "+") for value in by_seed(scores, model, UNTRAINED))
        same = model == UNTRAINED
        rows.append([
            model_name(model), "—" if same else by_training, "—" if same else shown(_extractor(scores, model)),
            f"{100 * of_model['copy_rate'].mean():.1f} %", f"{of_model['recall'].mean():.3f}",
            training_steps(model, first["N"], first["iterations"], int(first.get("own_trainings", 1))),
            f"{first['parameters']:,}", f"{first['macs_per_step']:,}", PAPER_TABLE1.get(model, "—"),
        ])  # fmt: skip
    return header, rows


def _extractor(scores: Scores, model: str) -> Interval:
    """The change by the features that the searches optimised."""
    return percent(block_interval(log_ratios(scores[model], scores[UNTRAINED], TRAIN, ["frechet"])["frechet"]))


Report = Callable[[pd.DataFrame, Path], str]
REPORTS: dict[str, Report] = {"contest": contest, "ablation": ablation, "sensitivity": sensitivity}


def _real_copies(table: pd.DataFrame) -> str:
    return f"{100 * table['copy_rate_real'].iloc[0]:.1f} %" if "copy_rate_real" in table else "none held out"


def _weights(table: pd.DataFrame, model: str) -> str:
    """Of each training seed; nothing of a model that has none of its own."""
    found = table[table["model"] == model].reindex(columns=["seed", "weights"]).dropna()
    return "; ".join(f"seed {seed}: {weights}" for seed, weights in zip(found["seed"], found["weights"], strict=True))


def _protocol(table: pd.DataFrame, study: str) -> str:
    row = table.iloc[0]
    return (
        f"Protocol: {row['images']:,} images a model from the seed block {row['seed_block']}, in {row['seed_blocks']}"
        f" blocks; sampler {row['sampler_kind']}, {row['sampler_steps']} steps, {row['sampler_spacing']} spacing,"
        f" {row['sampler_dtype']}, on {', '.join(table['device'].unique())};"
        f" judges `{row['judges']}`, search's features `{row['extractor']}`;"
        f" {row['reference_images']:,} reference images; training seeds"
        f" {', '.join(map(str, sorted(table['seed'].unique())))}, one base. Made by `make {study}`; its own rows:"
        f" `{study}.csv`."
    )
