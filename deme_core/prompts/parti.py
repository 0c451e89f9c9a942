"""PartiPrompts (Yu et al. 2022, arXiv 2206.10789): some 1,600 prompts of many categories."""

from pathlib import Path

from deme_core.errors import InputError
from deme_core.naming import brief
from deme_core.prompts.text_files import lines, read_text

COLUMN = "Prompt"
WHERE = "PartiPrompts.tsv lies in the repository google-research/parti"


def read_parti(path: Path) -> list[str]:
    """The column `Prompt` of the tab-separated table; its quotation marks belong to the prompts."""
    header, *rows = lines(read_text(path, "PartiPrompts", WHERE))
    names = header.split("\t")
    if COLUMN not in names:
        raise InputError(
            f"{path}: no column '{COLUMN}' in its first line, which names {brief(', '.join(names))}; a table parted by"
            f" tabs is expected: {WHERE}"
        )
    prompts = []
    for number, row in enumerate(rows, 2):
        cells = row.split("\t")
        if row.strip() and len(cells) != len(names):
            raise InputError(f"{path}: line {number} has {len(cells)} cells, the first line {len(names)}; {WHERE}")
        prompts += [" ".join(cells[names.index(COLUMN)].split())] if row.strip() else []
    return [prompt for prompt in prompts if prompt]
