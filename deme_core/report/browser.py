"""Pages for a browser: one file each, which needs no network, from Markdown and pictures that are there already."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from deme_core.metrics.intervals import Interval
from deme_core.report.verdicts import shown

TEMPLATES = Path(__file__).parent / "templates"
Bar = tuple[str, Interval, Sequence[float]]
"""A model's name, its change in percent beside the pretrained one, and that of each judge alone."""


def write_html(template: str, out: Path, **values: Any) -> None:
    """Write a template of deme_core/report/templates, `values` filled in."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    out.write_text(environment.get_template(f"{template}.html.jinja").render(**values), encoding="utf-8")


def write_document(markdown: Path, bars: Sequence[Bar] = ()) -> None:
    """Beside NAME.md, which begins with its title, NAME.html for a browser; `bars`, if any, stand below the title."""
    title, _, body = markdown.read_text(encoding="utf-8").partition("\n")
    write_html(
        "document", markdown.with_suffix(".html"), title=title.lstrip("# ").replace("`", ""), rows=forest(bars),
        text=rendered(body, markdown.parent),
    )  # fmt: skip


def rendered(markdown: str, folder: Path) -> Markup:
    """Markdown as HTML. Pictures of `folder` become part of it; of links to other files the words are left, since
    none lies beside the page; no other HTML passes than a line break.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    text = parser.render(markdown).replace("&lt;br&gt;", "<br>")
    text = re.sub(r'<a href="(?!https?:)[^"]*">(.*?)</a>', r"\1", text)
    text = text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(r'src="([^":]+\.png)"', lambda found: f'src="{inlined(folder / found[1])}"', text))


def inlined(picture: Path) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def forest(bars: Sequence[Bar]) -> list[dict[str, Any]]:
    """What the template draws of bars: positions in percent of the width, which all share, with 0 on it."""
    ends = [end for _, change, judges in bars for end in (change.value, change.low, change.high, *judges)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.03 * max(high - low, 1e-9)

    def at(value: float) -> float:
        return round(100 * (value - low + room) / (high - low + 2 * room), 3)

    return [
        {
            "name": name, "zero": at(0.0), "change": at(change.value), "low": at(change.low), "high": at(change.high),
            "judges": [at(judge) for judge in judges], "better": change.high < 0, "worse": change.low > 0,
            "said": shown(change),
        }
        for name, change, judges in bars
    ]  # fmt: skip
