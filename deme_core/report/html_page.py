"""The page of a run for a browser: one file that needs no network, from the pages that the run has already written."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from deme_core.metrics.intervals import Interval
from deme_core.report.tables import needed
from deme_core.report.text import model_name
from deme_core.report.verdicts import shown

HERE = Path(__file__).parent
TEMPLATE = "page.html.jinja"
CHANGE = "judges_train_change"


def write_html_page(
    run: Path, analyses: Path, figures: Sequence[str], previews: Mapping[str, Path], settings: Mapping[str, Any],
    out: Path,
) -> None:  # fmt: skip
    """Write the page.

    Args:
        run: output of the stage report.
        analyses: folder of the outputs of the stages analyse; `figures`: those of this run, first to last.
        previews: model -> a sheet of its samples, all from the same noise; the pretrained model's first.
        settings: what to set to make this run again.

    Raises:
        InputError: a file is missing.
    """
    title, _, body = needed(run / "results.md", "report").read_text(encoding="utf-8").partition("\n")
    table = pd.read_csv(needed(run / "results.csv", "report"), index_col="model")
    lead, _, rest = body.strip().partition("\n\n| ")  # the verdict stands before the first table
    captions = [needed(analyses / f"{name}.md", "analyse").read_text(encoding="utf-8") for name in figures]
    page = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    whole = page.get_template(TEMPLATE).render(
        title=title.lstrip("# "),
        lead=rendered(lead, run),
        rest=rendered(f"| {rest}", run),
        rows=forest(table),
        sheets=[(model_name(model), inlined(needed(sheet, "sample"))) for model, sheet in previews.items()],
        figures=[rendered(f"##{text}", analyses) for text in captions],  # their titles below the section's
        settings=settings,
    )
    out.write_text(whole, encoding="utf-8")


def rendered(markdown: str, folder: Path) -> Markup:
    """Markdown as HTML; pictures of `folder` become part of it, and no other HTML passes than a line break."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    text = parser.render(markdown).replace("&lt;br&gt;", "<br>")
    text = text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(r'src="([^":]+\.png)"', lambda found: f'src="{inlined(folder / found[1])}"', text))


def inlined(picture: Path) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def forest(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each model's change beside the pretrained one as a bar: positions in percent of the width, which all share.

    Args:
        table: of `deme_core.report.tables.results`.
    """
    found = table[table.index != "pretrained"].dropna(subset=[CHANGE])
    judges = [c for c in found if re.fullmatch(r"judge_.+_train_change", str(c))]
    ends = found[[CHANGE, f"{CHANGE}_low", f"{CHANGE}_high", *judges]]
    low, high = min(0.0, float(ends.min().min())), max(0.0, float(ends.max().max()))
    room = 0.03 * max(high - low, 1e-9)

    def at(value: float) -> float:
        return round(100 * (value - low + room) / (high - low + 2 * room), 3)

    models: list[Any] = [row for _, row in found.iterrows()]
    return [
        {
            "name": row["name"], "zero": at(0.0), "change": at(row[CHANGE]), "low": at(row[f"{CHANGE}_low"]),
            "high": at(row[f"{CHANGE}_high"]), "judges": [at(row[judge]) for judge in judges],
            "better": bool(row[f"{CHANGE}_high"] < 0), "worse": bool(row[f"{CHANGE}_low"] > 0),
            "said": shown(Interval(row[CHANGE], row[f"{CHANGE}_low"], row[f"{CHANGE}_high"])),
        }
        for row in models
    ]  # fmt: skip
