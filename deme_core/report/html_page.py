"""The page of a run for a browser, from the pages that the run has already written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deme_core.metrics.intervals import Interval
from deme_core.report.browser import Bar, forest, inlined, rendered, write_html
from deme_core.report.tables import needed
from deme_core.report.text import model_name

CHANGE = "judges_train_change"


def write_html_page(
    run: Path, analyses: Path, figures: Sequence[str], prompts: Path | None, previews: Mapping[str, Path],
    settings: Mapping[str, Any], out: Path,
) -> None:  # fmt: skip
    """Write the page.

    Args:
        run: output of the stage report.
        analyses: folder of the outputs of the stages analyse; `figures`: those of this run, first to last.
        prompts: output of the stage report_prompts, of a text-to-image run.
        previews: model -> a sheet of its samples, all from the same noise; the pretrained model's first.
        settings: what to set to make this run again.

    Raises:
        InputError: a file is missing.
    """
    title, _, body = needed(run / "results.md", "report").read_text(encoding="utf-8").partition("\n")
    table = pd.read_csv(needed(run / "results.csv", "report"), index_col="model")
    lead, _, rest = body.strip().partition("\n\n| ")  # the verdict stands before the first table
    captions = [needed(analyses / f"{name}.md", "analyse").read_text(encoding="utf-8") for name in figures]
    pages = [] if prompts is None else [needed(prompts / f"{name}.md", "report_prompts") for name in PROMPT_PAGES]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    write_html(
        "run",
        out,
        title=title.lstrip("# "),
        lead=rendered(lead, run),
        rest=rendered(f"| {rest}", run),
        rows=forest(changes(table)),
        sheets=[(model_name(model), inlined(needed(sheet, "sample"))) for model, sheet in previews.items()],
        # Their titles stand one level below the heads of this page's sections.
        figures=[rendered(f"##{text}", analyses) for text in captions],
        prompts=[
            rendered(re.sub("^#", "###", text, flags=re.M), page.parent)
            for page, text in zip(pages, texts, strict=True)
        ],
        settings=settings,
    )


PROMPT_PAGES = ("table2", "gallery")


def changes(table: pd.DataFrame) -> list[Bar]:
    """The judged models of `deme_core.report.tables.results`, beside the pretrained one."""
    found = table[table.index != "pretrained"].dropna(subset=[CHANGE])
    judges = [c for c in found if re.fullmatch(r"judge_.+_train_change", str(c))]
    models: list[Any] = [row for _, row in found.iterrows()]
    return [
        (row["name"], Interval(row[CHANGE], row[f"{CHANGE}_low"], row[f"{CHANGE}_high"]), list(row[judges]))
        for row in models
    ]
