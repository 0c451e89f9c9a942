"""How many network calls does a model save?

From the rows of studies that measured the same models with different numbers of calls: each model beside the pretrained
one with as many calls, and beside the pretrained one with the most of them, judge by judge, on the same noise.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from deme_core.command_line import command_line
from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval
from deme_core.metrics.verdict import Verdict
from deme_core.naming import said
from deme_core.out_files import check_out_files
from deme_core.report.browser import write_document
from deme_core.report.claims import TRAIN
from deme_core.report.study_figures import call_curves
from deme_core.report.text import markdown, model_name
from deme_core.report.training_seeds import INTERVALS, scores_of
from deme_core.report.verdicts import UNTRAINED, Scores, against, judges_of, shown
from deme_core.sampling.settings import SamplerParams
from deme_core.stage import run

EXAMPLE = "reports/fashion_mnist_10.csv reports/fashion_mnist_20.csv --models neon --out calls.md"
BASE = SamplerParams(kind="ddim", steps=10, spacing="uniform", block=1, dtype="float32")
NEEDED = ("model", "seed", "sampler_kind", "sampler_steps", "sampler_spacing", "device")  # and the protocol
PROTOCOL = ("images", "seed_block", "seed_blocks", "judges")  # the same in rows that can be compared


def read_rows(file: Path) -> pd.DataFrame:
    """The rows of a study.

    Raises:
        InputError: the file is none, or its rows were measured without what is compared here.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; name the CSV of a study, such as reports/fashion_mnist_10.csv")
    try:
        rows = pd.read_csv(file)
    except ValueError as error:  # pandas' own errors and those of decoding are of this kind
        raise InputError(f"{file}: no CSV file ({said(error)}); name that of a study") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    lacking = [key for key in (*NEEDED, *PROTOCOL) if key not in rows or rows[key].isna().any()]
    if not any(re.fullmatch(rf"judge_.+_{TRAIN}_block\d+", column) for column in map(str, rows)):
        lacking.append("distances of judges")
    if lacking or rows.empty:
        what = f"rows without {', '.join(lacking)}" if lacking else "no rows"
        raise InputError(f"{file}: {what}; name the CSV of a study that has them, or measure it anew (--again)")
    return rows


def network_calls(rows: pd.DataFrame) -> list[int]:
    """Of each row, network calls an image; a row without guidance is one of images without texts."""
    settings = rows.reindex(columns=["sampler_kind", "sampler_steps", "sampler_guidance"]).fillna(1)
    return [replace(BASE, kind=kind, steps=steps, guidance=g).calls for kind, steps, g in settings.to_numpy()]


def check_rows(rows: pd.DataFrame) -> None:
    """Refuse rows, whose `calls` are known, that no interval over trainings and noise could be made of.

    Raises:
        InputError: it names what differs.
    """
    for key in PROTOCOL:
        if rows[key].nunique() > 1:
            raise InputError(f"{key}: {', '.join(map(str, rows[key].unique()))}; name studies of one protocol")
    if (rows.groupby("calls")[["sampler_kind", "sampler_spacing"]].nunique() > 1).any(axis=None):
        raise InputError("two samplers have as many network calls; name studies with one sampler for each number")
    if rows.groupby(["calls", "model", "seed"]).size().max() > 1:
        raise InputError("a model has two rows of one seed and number of calls; name each study once")
    if rows.groupby(["calls", "model"])["seed"].agg(frozenset).nunique() > 1 or rows["seed"].nunique() < 2:
        raise InputError("each model needs the same training seeds with every number of calls, two at least")
    calls = sorted(set(rows["calls"]))
    if len(calls) < 2 or set(rows.loc[rows["model"] == UNTRAINED, "calls"]) != set(calls):
        raise InputError(
            f"found {', '.join(map(str, calls))} network calls; at least two numbers of them are needed,"
            " each with the pretrained model: name several studies"
        )


def by_calls(rows: pd.DataFrame) -> dict[int, Scores]:
    """Calls -> the scores of the models, fewest calls first."""
    return {int(str(calls)): scores_of(of_calls) for calls, of_calls in rows.groupby("calls")}


def beside_the_most(found: Mapping[int, Scores], calls: int, model: str) -> Verdict:
    """The verdict on a model with so many calls beside the pretrained one with the most."""
    return against({"": found[calls][model], UNTRAINED: found[max(found)][UNTRAINED]}, "", UNTRAINED, TRAIN)


def curves(found: Mapping[int, Scores]) -> dict[str, dict[int, Interval]]:
    """Model -> calls -> its distance, in units of the pretrained one's with the most calls, by all judges."""
    out: dict[str, dict[int, Interval]] = {}
    for calls, scores in found.items():
        for model in scores:
            change = beside_the_most(found, calls, model).change
            out.setdefault(model, {})[calls] = Interval(*(1 + end / 100 for end in vars(change).values()))
    return out


def page(rows: pd.DataFrame, found: Mapping[int, Scores], picture: str) -> str:
    """Markdown: a row a model and number of calls."""
    most, judges = max(found), judges_of(found[max(found)], TRAIN)
    samplers = rows.groupby("calls")[["sampler_kind", "sampler_spacing"]].first()
    header = ["model", "calls", f"beside the base with as many calls, {len(judges)} judges<br>[95 %]"]
    header += [f"beside the base with {most} calls<br>[95 %]", *(f"`{judge}`" for judge in judges)]
    cells = []
    for model in dict.fromkeys(model for scores in found.values() for model in scores):
        for calls in [calls for calls, scores in found.items() if model in scores]:
            verdict = beside_the_most(found, calls, model)
            all_of_them = [shown(verdict.change), *(shown(verdict.judges[judge]) for judge in judges)]
            if (model, calls) == (UNTRAINED, most):
                all_of_them = ["—"] * len(all_of_them)
            equal = "—" if model == UNTRAINED else shown(against(found[calls], model, UNTRAINED, TRAIN).change)
            cells.append([model_name(model), str(calls), equal, *all_of_them])
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
        f" on {', '.join(rows['device'].unique())}.{_made_for(rows)}",
    ]) + "\n"  # fmt: skip


def _made_for(rows: pd.DataFrame) -> str:
    """Which models were measured with other calls than they were made for."""
    if "made_for_calls" not in rows:
        return ""
    moved = rows[["model", "calls", "made_for_calls"]].dropna().drop_duplicates()
    told = [f"{row.model} with {row.calls} (made for {row.made_for_calls:g})" for row in moved.itertuples()]
    return f" Measured with other calls than it was made for: {', '.join(told)}." if told else ""


def main() -> None:
    """The command."""
    parser = command_line("python -m deme_core.report.calls", __doc__, EXAMPLE)
    parser.add_argument("rows", type=Path, nargs="+", help="CSV files of studies, such as reports/fashion_mnist_10.csv")
    parser.add_argument("--models", nargs="+", help="those to show; all where none are named")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file; beside it picture and HTML")
    parser.add_argument("--force", action="store_true", help="replace an earlier page --out")
    args = parser.parse_args()
    if args.out.suffix != ".md":
        raise InputError(f"--out {args.out}: a Markdown file is written, whose name must end in .md")
    check_out_files(args.out, [args.out.with_suffix(end) for end in (".md", ".png", ".html")], args.rows, args.force)
    rows = pd.concat([read_rows(file) for file in args.rows], ignore_index=True)
    rows = pd.concat([rows, pd.Series(network_calls(rows), name="calls")], axis=1)
    if args.models:
        if unknown := set(args.models) - set(rows["model"]):
            raise InputError(
                f"--models {' '.join(sorted(unknown))}: not measured there; there are"
                f" {', '.join(rows['model'].unique())}"
            )
        rows = rows[rows["model"].isin([UNTRAINED, *args.models])]
    check_rows(rows)
    found = by_calls(rows)
    picture = args.out.with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    call_curves(picture, {model_name(model): curve for model, curve in curves(found).items()})
    args.out.write_text(text := page(rows, found, picture.name), encoding="utf-8")
    write_document(args.out)
    print(text)


if __name__ == "__main__":
    run(main)
