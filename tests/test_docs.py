"""What README and docs say that a reader can run or follow: commands, options, make targets, links."""

import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from commands import command
from conftest import REPOSITORY

from conf.compose import compose_params

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TEXTS = {page: page.read_text() for page in PAGES}
BLOCKS = [block for text in TEXTS.values() for block in re.findall(r"```bash\n(.*?)```", text, re.S)]
LINES = [
    line.split("#")[0].strip()
    for block in BLOCKS
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.split("#")[0].strip()
]
DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@cache
def help_of(module: str, *name: str) -> str:
    done = command("-m", module, *name, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((REPOSITORY / "README.md").read_bytes()) <= 8200


@pytest.mark.parametrize("line", sorted({line for line in LINES if re.search(r"-m (deme_core|studies|stages)", line)}))
def test_every_command_has_the_options_that_are_shown(line: str) -> None:
    module = re.search(r"-m ((?:deme_core|studies|stages)[\w.]*)", line)[1].rstrip(".")
    said = help_of(module)
    for option in re.findall(r"(?<!\S)--[a-z-]+", line.split(module, 1)[1]):
        assert option in said, option


@pytest.mark.parametrize("line", sorted({line for line in LINES if re.match(r"deme [a-z]", line)}))
def test_every_deme_command_has_the_options_that_are_shown(line: str) -> None:
    _, name, *words = line.split()
    said = help_of("deme_core", name)
    assert said.startswith(f"usage: deme {name} ")
    for option in (word for word in words if word.startswith("--")):
        assert option in said, option


@pytest.mark.parametrize("line", sorted({line for line in LINES if line.startswith("make ")}))
def test_every_make_target_is_there(line: str) -> None:
    asked = [word for word in line.split()[1:] if "=" not in word]
    run = subprocess.run(["make", "--dry-run", *asked], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0 and "Nothing to be done" not in run.stdout, run.stderr or run.stdout


@pytest.mark.parametrize(
    "line", sorted({line for line in LINES if "dvc exp run" in line and "experiment=mine" not in line})
)
def test_every_experiment_that_is_shown_composes(line: str) -> None:
    words = line.split("&&")[0].replace("'", "").split()
    settings = [value for flag, value in pairwise(words) if flag == "-S"]
    for setting in settings:
        assert compose_params([setting.split(",")[0] if "[" not in setting else setting])
    for flag, target in pairwise(words[2:]):
        if flag not in ("-S", "--copy-paths") and not target.startswith("-"):
            assert target.split("@")[0] in DAG, target


def test_every_stage_has_its_row() -> None:
    rows = set(re.findall(r"`(\w+)(?:@[^`]*)?`", TEXTS[REPOSITORY / "docs" / "stages.md"]))
    assert set(DAG) - rows == set()
