"""The report of a text-to-image run: Table 2 and the gallery, as Markdown with pictures."""

from collections.abc import Mapping
from pathlib import Path

from deme_core.data.archive import read_images
from deme_core.report.console import prompt_console
from deme_core.report.gallery import write_gallery
from deme_core.report.prompt_tables import Measured, page2, table2
from deme_core.report.text import model_name

BEFORE, AFTER = "pretrained", "merged"


def write_prompt_report(
    measured: Mapping[str, Mapping[str, Measured]], samples: Mapping[str, Mapping[str, Path]], title: str, paper: bool,
    out: Path,
) -> None:  # fmt: skip
    """Write table2.csv, table2.md, table2.txt for the terminal, gallery.md and the sheets of the gallery to `out`.

    Args:
        measured: set -> model -> what the stage evaluate_prompts found.
        samples: set -> model -> the folder of its images, for the pretrained and the merged model.
        paper: whether this is the paper's experiment, whose numbers then stand beside these.
    """
    table = table2(measured)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table2.csv")
    (out / "table2.md").write_text(page2(title, table, paper), encoding="utf-8")
    (out / "table2.txt").write_text(prompt_console(table), encoding="utf-8")
    names = (model_name(BEFORE), model_name(AFTER))
    parts = [f"# Gallery: {names[0]} and {names[1]}", "Both images of a pair come from the same noise."]
    for of_set, models in measured.items():
        two = (models[BEFORE], models[AFTER])
        streams = tuple(read_images(samples[of_set][m], models[m].metrics["images"]) for m in (BEFORE, AFTER))
        parts.append(write_gallery(out, of_set, (two[0].scores, two[1].scores), (streams[0], streams[1]), names))
    (out / "gallery.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
