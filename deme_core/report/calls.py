"""How many network calls does a model save? `python -m deme_core.report.calls --help`.

From the rows of studies that measured the same models with different numbers of calls: each model beside the pretrained
one with as many calls, and beside the pretrained one with the most of them, judge by judge, on the same noise.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval, block_interval
from deme_core.report.figures import call_curves
from deme_core.report.studies import INTERVALS, scores_of
from deme_core.report.text import markdown, model_name
from deme_core.report.verdicts import UNTRAINED, Scores, against, judges_of, ratios, shown
from deme_core.stage import run

TRAIN = "train"


def network_calls(rows: pd.DataFrame) -> pd.Series:
    """Network calls an image; PLMS makes one step twice."""
    return rows["sampler_steps"] + (rows["sampler_kind"] == "pndm")


def by_calls(rows: pd.DataFrame) -> dict[int, Scores]:
    """Calls -> the scores of the models, fewest calls first."""
    return {int(str(calls)): scores_of(own) for calls, own in rows.groupby(network_calls(rows))}


def beside_the_most(found: Mapping[int, Scores], calls: int, model: str) -> Scores:
    """A model with so many calls beside the pretrained one with the most."""
    return {model + "@": found[calls][model], UNTRAINED: found[max(found)][UNTRAINED]}


def page(rows: pd.DataFrame, found: Mapping[int, Scores], picture: str) -> str:
    """Markdown: a row a model and number of calls."""
    most, judges = max(found), judges_of(found[max(found)], TRAIN)
    samplers = rows.groupby(network_calls(rows))[["sampler_kind", "sampler_spacing"]].first()
    header = ["model", "calls", f"beside the base with as many calls, {len(judges)} judges<br>[95 %]"]
    header += [f"beside the base with {most} calls<br>[95 %]", *(f"`{judge}`" for judge in judges)]
    cells = []
    for model in dict.fromkeys(model for scores in found.values() for model in scores):
        for calls, scores in found.items():
            if model not in scores:
                continue
            equal = "—" if model == UNTRAINED else shown(against(scores, model, UNTRAINED, TRAIN).change)
            verdict = against(beside_the_most(found, calls, model), model + "@", UNTRAINED, TRAIN)
            own = [shown(verdict.judges[judge]) for judge in judges]
            if (model, calls) == (UNTRAINED, most):
                verdict_text, own = "—", ["—"] * len(judges)
            else:
                verdict_text = shown(verdict.change)
            cells.append([model_name(model), str(calls), equal, verdict_text, *own])
    first = rows.iloc[0]
    used = ", ".join(f"{calls}: {row.sampler_kind}, {row.sampler_spacing}" for calls, row in samplers.iterrows())
    return "\n\n".join([
        f"# Distance over network calls, {rows['seed'].nunique()} training seeds",
        f"![distance over calls]({picture})",
        markdown(header, cells),
        "Change of the distance to the training part in percent, geometric mean over the judges, on the same noise;"
        f" below 0 the model is better than what it stands beside. Intervals (95 %) {INTERVALS}.",
        f"Protocol: {first['images']:,} images a model from the seed block {first['seed_block']}, in"
        f" {first['seed_blocks']} blocks; sampler by calls: {used}; judges `{first['judges']}`;"
        f" {first['device']}.",
    ]) + "\n"  # fmt: skip


def curves(found: Mapping[int, Scores]) -> dict[str, dict[int, Interval]]:
    """Model -> calls -> its distance, in units of the pretrained one's with the most calls, by all judges."""
    out: dict[str, dict[int, Interval]] = {}
    for calls, scores in found.items():
        for model in scores:
            beside = beside_the_most(found, calls, model)
            mean = np.mean(list(ratios(beside, model + "@", UNTRAINED, TRAIN).values()), axis=0)
            change = block_interval(mean)
            out.setdefault(model, {})[calls] = Interval(*(float(np.exp(x)) for x in vars(change).values()))
    return out


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="CSV files of studies, such as reports/fashion_mnist_10.csv")
    parser.add_argument("--models", nargs="+", help="those to show; all where none are named")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file; the picture stands beside it")
    args = parser.parse_args()
    for file in args.rows:
        if not file.is_file():
            raise InputError(f"{file}: no such file; name the CSV of a study, such as reports/fashion_mnist_10.csv")
    rows = pd.concat([pd.read_csv(file) for file in args.rows], ignore_index=True)
    if args.models:
        rows = rows[rows["model"].isin([UNTRAINED, *args.models])]
    found = by_calls(rows)
    if len(found) < 2 or any(UNTRAINED not in scores for scores in found.values()):
        raise InputError(
            f"{', '.join(map(str, args.rows))}: found {', '.join(map(str, found))} network calls; at least two numbers"
            " of them are needed, each with the pretrained model: name the CSV files of several studies"
        )
    picture = args.out.with_suffix(".png")
    named = {model_name(model): own for model, own in curves(found).items()}
    call_curves(picture, named)
    args.out.write_text(text := page(rows, found, picture.name), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run(main)
