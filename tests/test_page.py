"""The page for a browser: whole in one file, and what its slider and its tables do in a real one."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chromium import CHROMIUM
from conftest import REPOSITORY
from PIL import Image

from deme_core.errors import InputError
from deme_core.metrics.intervals import Interval
from deme_core.report.browser import forest, inlined, rendered, write_document
from deme_core.report.html_page import changes, write_html_page

RUN, ANALYSES, PROMPTS = (REPOSITORY / "reports" / name for name in ("run", "analyses", "digits_t2i"))
DRIVER = """
<script>
const found = {errors: []};
window.addEventListener("error", event => found.errors.push(event.message));
window.addEventListener("load", () => {
  const after = [...document.querySelectorAll(".after")], select = document.getElementById("model");
  const slider = document.getElementById("slider"), tell = image => [image.hidden, getComputedStyle(image).clipPath];
  found.before = after.map(tell);
  slider.value = 20; slider.dispatchEvent(new Event("input"));
  select.selectedIndex = 1; select.dispatchEvent(new Event("change"));
  found.after = after.map(tell);
  const table = document.querySelector("table"), head = table.querySelectorAll("th")[1];
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].innerText);
  head.click(); found.up = column(); head.click(); found.down = column();
  found.wide = [document.documentElement.scrollWidth, innerWidth];
  const asked = performance.getEntriesByType("resource").map(entry => entry.name);
  found.asked = asked.filter(name => !name.startsWith("data:"));
  found.broken = [...document.images].filter(image => !image.naturalWidth).length;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
# A window without a head is 500 pixels wide at least; a frame in it has any width.
FRAME = """
<script>
window.addEventListener("message", event => {
  const told = document.createElement("pre");
  told.id = "found"; told.textContent = event.data; document.body.append(told);
});
</script>
<body><iframe src="driven.html" style="border: 0; width: %dpx; height: 900px"></iframe></body>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    previews = {}
    for k, model in enumerate(("pretrained", "neon", "merged")):
        previews[model] = folder / f"{model}.png"
        Image.new("L", (40, 20), 80 * k).save(previews[model])
    out = folder / "index.html"
    write_html_page(RUN, ANALYSES, ["vectors", "cosines"], PROMPTS, previews, {"experiment": "digits", "N": 4}, out)
    return out


def test_the_page_is_whole_in_one_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {source.partition(",")[0] for source in sources if not source.startswith("https://arxiv.org/")} == {
        "data:", "data:image/png;base64"
    }  # fmt: skip
    for file in (page.parent / "neon.png", RUN / "search.png", ANALYSES / "vectors.png"):
        assert inlined(file) in text
    assert inlined(ANALYSES / "landscape.png") not in text  # of another run
    assert inlined(PROMPTS / "captions-1.png") in text and "Evenly spread over the prompts</h5>" in text
    lead = (RUN / "results.md").read_text(encoding="utf-8").splitlines()[2]
    assert lead.split("**")[2].split("`")[0].strip() in text
    assert "dvc exp run -S experiment=digits -S N=4" in text


def test_a_page_has_the_same_bytes_each_time_and_names_what_is_missing(page: Path, tmp_path: Path) -> None:
    previews = {model: page.parent / f"{model}.png" for model in ("pretrained", "neon", "merged")}
    settings = {"experiment": "digits", "N": 4}
    write_html_page(RUN, ANALYSES, ["vectors", "cosines"], PROMPTS, previews, settings, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    with pytest.raises(InputError, match=r"activity\.md"):
        write_html_page(RUN, ANALYSES, ["activity"], None, previews, settings, tmp_path / "none.html")
    write_html_page(RUN, ANALYSES, [], None, previews, settings, tmp_path / "none.html")
    assert "Prompt by prompt" not in (tmp_path / "none.html").read_text(encoding="utf-8")


def test_no_html_of_a_name_passes(tmp_path: Path) -> None:
    text = rendered("| `<b>` <script>x</script> | a<br>b |\n| --- | --- |\n| 1 | 2 |", tmp_path)
    assert rendered("[a](b.md) [c](https://d)", tmp_path).strip() == '<p>a <a href="https://d">c</a></p>'
    assert "<script" not in text and "a<br>b" in text and '<div class="wide"><table>' in text


def test_bars_share_one_axis() -> None:
    columns = ["name", "judges_train_change", "judges_train_change_low", "judges_train_change_high"]
    rows = {"pretrained": ["p", 0, 0, 0], "a": ["A", -10, -20, -5], "b": ["B", 5, -1, 10], "c": ["C", 8, 4, 10]}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table["judge_x_train_change"] = [0, -12, 6, 9]
    a, b, c = forest(changes(table))
    assert a["zero"] == b["zero"] and a["low"] < a["judges"][0] < a["change"] < a["high"] < a["zero"] < b["change"]
    assert (a["change"] - a["low"]) == pytest.approx(2 * (c["high"] - a["zero"]) / 2, abs=1e-2)
    assert [(row["better"], row["worse"]) for row in (a, b, c)] == [(True, False), (False, False), (False, True)]
    assert a["said"] == "−10.0 % [−20.0, −5.0]" and a["low"] > 0 and c["high"] < 100


def test_a_study_s_page_for_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "table1.md"
    page.write_text("# `table1`: two models\n\n![bars](a.png)\n\n| model | change |\n| --- | --- |\n| neon | −3 |\n")
    Image.new("L", (4, 2)).save(tmp_path / "a.png")
    write_document(page, [("Neon", Interval(-3.0, -5.0, -1.0), [-2.0, -4.0])])
    text = (tmp_path / "table1.html").read_text(encoding="utf-8")
    assert "<h1>table1: two models</h1>" in text and inlined(tmp_path / "a.png") in text
    assert 'aria-label="−3.0 % [−5.0, −1.0]"' in text and text.count('class="judge"') == 2
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    write_document(page)
    assert "beside the pretrained one" not in (tmp_path / "table1.html").read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text(encoding="utf-8").replace("<head>", "<head>" + DRIVER), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % width, encoding="utf-8")
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--virtual-time-budget=10000", "--window-size=1400,900", "--dump-dom"]
    done = subprocess.run([*words, frame.as_uri()], capture_output=True, text=True, timeout=200)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["errors"] == found["asked"] == [] and found["broken"] == 0
    assert found["before"] == [[False, "inset(0px 0px 0px 50%)"], [True, "inset(0px 0px 0px 50%)"]]
    assert found["after"] == [[True, "inset(0px 0px 0px 20%)"], [False, "inset(0px 0px 0px 20%)"]]
    values = [float(cell.split(" %")[0].replace("−", "-")) for cell in found["up"]]
    assert values == sorted(values) and found["down"] == found["up"][::-1] and len(values) > 4
    assert found["wide"][0] <= found["wide"][1] == width
