"""What a run shows in a terminal or a log: what its page leads with, and one table, as plain text."""

import math
import textwrap
from collections.abc import Sequence

import pandas as pd

from deme_core.report.text import PARTS, model_name, number
from deme_core.report.verdicts import UNTRAINED, Scores, against, parts_of, shown, verdict

CHANGE = ("_change", "_change_low", "_change_high")
NAME, WIDTH = 36, 110  # characters: of a model's name, of a line of prose


def console(table: pd.DataFrame, scores: Scores, group: str, note: str | None = None) -> str:
    """The verdict on the merge, and a row a model beside the pretrained one, as results.txt.

    Args:
        table: of `deme_core.report.tables.results`.
        group: what the judges of this run are called.
        note: one more paragraph, of the calibration.
    """
    first, *rest = parts_of(scores)
    header = ["model", *(f"{who},\n{PARTS[first]}" for who in ("all judges", "worst judge"))]
    header += [f"all judges,\n{PARTS[part]}" for part in rest] + ["search's own\nextractor"]
    rows, by_extractor = [], table["frechet_train_change_percent"]
    for model in scores:
        if model == UNTRAINED:
            continue
        found = {part: against(scores, model, UNTRAINED, part) for part in (first, *rest)}
        worst = found[first].worst
        rows.append([
            model_name(model), shown(found[first].change), f"{worst} {shown(found[first].judges[worst])}",
            *(shown(found[part].change) for part in rest),
            f"{number(by_extractor.loc[model], 1, '+')} %",
        ])  # fmt: skip
    paragraphs = [verdict(scores, group), *([note] if note else [])]
    plain = [textwrap.fill(text.replace("**", "").replace("`", ""), WIDTH) for text in paragraphs]
    how = "Change of distance against the pretrained model, lower is better; 95 % intervals over the noise alone."
    return "\n\n".join([*plain, columns(header, rows), how]) + "\n"


def prompt_console(table: pd.DataFrame) -> str:
    """Table 2, a row a prompt set and model, as table2.txt.

    Args:
        table: of `deme_core.report.prompt_tables.table2`.
    """
    rows = []
    for row in table.reset_index().to_dict("records"):
        cells = [f"{row['set']}: {row['name']}"]
        for key, digits in (("clip_score", 2), ("frechet", 3)):
            value, *change = (row.get(f"{key}{end}", math.nan) for end in ("", *CHANGE))
            seen, low, high = (number(one, digits, "+") for one in change)
            nothing = row["model"] == UNTRAINED or math.isnan(value)
            cells += [number(value, digits), "—" if nothing else f"{seen} [{low}, {high}]"]
        rows.append(cells)
    header = ["set: model", "CLIP score ↑", "change [95 %]", "Fréchet\ndistance ↓", "change [95 %]"]
    return columns(header, rows) + "\n"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; the first column is flush left and folded at `NAME`, the others flush right.

    Args:
        header: its line breaks stay.
    """
    cells = [[textwrap.wrap(row[0], NAME, subsequent_indent="  "), *([cell] for cell in row[1:])] for row in rows]
    heads = list(map(str.splitlines, header))
    lines = [
        [column[k] if k < len(column) else "" for column in row]
        for row in (heads, *cells)
        for k in range(max(map(len, row)))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(max(map(len, heads)), ["-" * width for width in widths])
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for name, *others in lines
    )
