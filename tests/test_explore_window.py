"""The window of merge weights as a browser has it: what is served, to whom, and what a real Chromium does with it."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from chromium import CHROMIUM
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline
from exploring import sampled, write_run
from PIL import Image

from deme_core.errors import InputError
from deme_core.explore import server
from deme_core.explore.__main__ import main
from deme_core.explore.run import of_run
from deme_core.explore.server import FILES, PAGE, Window
from deme_core.explore.session import Session
from deme_core.params import read
from deme_core.seeds import SeedBlock, image_generators

DRIVER = """
const found = {errors: []}, key = name => document.getElementById(name);
addEventListener("error", event => found.errors.push(event.message));
addEventListener("securitypolicyviolation", event => found.errors.push(event.blockedURI));
const until = async holds => { while (!holds()) await new Promise(next => setTimeout(next, 20)); };
const drawn = async k => {
  await until(() => document.body.dataset.shown === String(k));
  const sources = name => [...document.querySelectorAll(`#${name} img`)].map(image => image.src);
  const [said, formula] = ["said", "formula"].map(name => key(name).textContent);
  return {base: sources("base"), merged: sources("merged"), said, formula};
};
const press = label => [...document.querySelectorAll("#buttons button")].find(own => own.textContent === label).click();
const drive = async () => {
  found.searched = await drawn(1);
  const slider = document.querySelector(".slider input[type=range]");
  slider.value = 1.2; slider.dispatchEvent(new Event("input"));
  found.moved = await drawn(2);
  press("zero"); found.zero = await drawn(3);
  press("uniform"); found.uniform = await drawn(4);
  key("folder").value = "models/mine";
  for (const name of ["kept", "refused"]) {
    key("save").click();
    await until(() => !["", "…"].includes(key("kept").textContent));
    found[name] = key("kept").textContent;
  }
  key("steps").value = 0; key("steps").dispatchEvent(new Event("change"));
  await drawn(5); found.wrong = key("state").textContent;
  found.sliders = [...document.querySelectorAll(".slider span")].map(own => own.textContent);
  found.buttons = [...document.querySelectorAll("#buttons button")].map(own => own.textContent);
  const asked = performance.getEntriesByType("resource").map(entry => entry.name);
  found.asked = asked.filter(name => !name.startsWith("data:"));
  found.wide = [document.documentElement.scrollWidth, innerWidth];
};
drive().catch(error => found.errors.push(String(error))).finally(() => {
  const told = document.createElement("pre");
  told.id = "found"; told.textContent = JSON.stringify(found); document.body.append(told);
});
"""


@pytest.fixture
def folder(pipeline: Path, vectors: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_run(tmp_path, pipeline, vectors))
    return tmp_path


@contextmanager
def served(host: str = "127.0.0.1") -> Iterator[Window]:
    with Window(Session(of_run(read())), host, 0) as window:
        thread = Thread(target=window.serve_forever)
        thread.start()
        yield window
        window.shutdown()
        thread.join()


def ask(window: Window, path: str, body: Any = None, **headers: str) -> tuple[int, str, bytes]:
    """Status, kind and content of an answer."""
    connection = HTTPConnection("127.0.0.1", window.server_port, timeout=60)
    text = None if body is None else json.dumps(body)
    kind = {"Content-Type": "application/json"} if text else {}
    connection.request(
        "POST" if text else "GET", path, text, kind | {k.replace("_", "-"): v for k, v in headers.items()}
    )
    answer = connection.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read()


def pixels(address: str) -> torch.Tensor:
    """Of a PNG in a data: address, uint8 [1, H, W]."""
    image = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    return torch.from_numpy(np.asarray(image).copy())[None]


def test_three_files_are_served_and_no_other(folder: Path) -> None:
    with served() as window:
        for path, (name, kind) in FILES.items():
            status, said, content = ask(window, path)
            assert (status, said) == (200, f"{kind}; charset=utf-8") and content == (PAGE / name).read_bytes()
        for path in (
            "/params.yaml", "/../params.yaml", "/page/../../params.yaml", "/%2e%2e/params.yaml", "/file=params.yaml",
            "/gradio_api/file=params.yaml", f"/{folder}/params.yaml", "//params.yaml", "/explore.js/../params.yaml",
        ):  # fmt: skip
            assert ask(window, path)[0] == 404, path


def test_nothing_that_is_served_names_another_host() -> None:
    for name, _ in FILES.values():
        text = (PAGE / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|(?:src|href)=[\"']?//|@import|url\(", text), name
    assert "default-src 'none'" in server.HEADERS["Content-Security-Policy"]


def test_a_page_of_another_site_is_refused(folder: Path) -> None:
    body = {"weights": [0.0, 0.0, 0.0], "folder": "models/mine"}
    with served() as window:
        for headers in (
            {"Host": "evil.example"}, {"Host": f"evil.example:{window.server_port}"}, {"Origin": "http://evil.example"},
            {"Origin": "null"}, {"Origin": f"https://127.0.0.1:{window.server_port}"},
        ):  # fmt: skip
            assert ask(window, "/save", body, **headers)[0] == 403, headers
        assert ask(window, "/save", body, Content_Type="text/plain")[0] == 400
        assert ask(window, "/session", Host="evil.example")[0] == 403
        assert not Path("models/mine").exists()
        assert ask(window, "/session", Host=f"localhost:{window.server_port}")[0] == 200
        assert ask(window, "/save", body, Origin=window.address)[0] == 200
        assert Path("models/mine/merge.json").is_file()


def test_a_mistake_is_one_line(folder: Path) -> None:
    shown = {"weights": [0.0, 0.0, 0.0], "seed": 0, "images": 2, "steps": 4}
    with served() as window:
        for path, body, said in (
            ("/show", shown | {"seed": -1}, "seed = -1"), ("/show", shown | {"odd": 1}, "unknown key show.odd"),
            ("/show", [1], "must be a section"), ("/save", {"weights": [0.0] * 3, "folder": " "}, "name a new folder"),
            ("/save", {"weights": [0.0] * 3, "folder": "models/own"}, "holds something already"),
        ):  # fmt: skip
            status, _, content = ask(window, path, body)
            error = json.loads(content)["error"]
            assert status == 400 and said in error and "\n" not in error
        with pytest.raises(InputError, match="--port 0 takes a free one"):
            Window(window.session, "127.0.0.1", window.server_port)


@pytest.mark.parametrize("words", [["--base", "x"], ["--experts", "x"]])
def test_base_and_experts_belong_together(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["deme explore", *words])
    with pytest.raises(InputError, match="belong together"):
        main()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium (Debian: apt-get install chromium)")
def test_in_a_browser(folder: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Path(shutil.copytree(PAGE, tmp_path / "page"))
    with (driven / "explore.js").open("a", encoding="utf-8") as file:
        file.write(DRIVER)
    monkeypatch.setattr(server, "PAGE", driven)
    with served() as window:
        words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
        words += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom"]
        done = subprocess.run([*words, window.address], capture_output=True, text=True, timeout=300)
        address = window.address
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["errors"] == []
    assert found["sliders"] == ["1: t in [0, 500)", "2: t in [500, 1000)", "self"]
    assert found["buttons"] == ["searched", "searched self", "away", "uniform", "zero"]

    base = sampled(pipeline, 0, 16)
    for name in ("searched", "moved", "zero", "uniform"):
        shown = found[name]
        assert torch.equal(torch.stack([pixels(source) for source in shown["base"]]), base)
        assert (shown["merged"] == shown["base"]) == (name == "zero"), name
    assert found["moved"]["merged"] != found["searched"]["merged"]
    assert found["zero"]["said"].startswith("+0.0 % [+0.0, +0.0]") and found["zero"]["formula"] == "θ, w = 0"
    assert re.match(r"−\d+\.\d % \[−", found["searched"]["said"])

    assert found["kept"] == f"saved: {folder / 'models' / 'mine'}"
    assert "holds something already" in found["refused"] and "steps = 0" in found["wrong"]
    parts = DiffusionPipeline.from_pretrained(folder / "models" / "mine").components
    scheduler = DDIMScheduler.from_config(parts["scheduler"].config, timestep_spacing="leading")
    stock = DDIMPipeline(parts["unet"].eval(), scheduler)
    stock.set_progress_bar_config(disable=True)
    for first in range(0, 16, 4):  # a network call sees blocks of four
        noise = image_generators(SeedBlock.EVALUATION, range(first, first + 4))
        theirs = stock(4, noise, num_inference_steps=4, output_type="pil").images
        ours = [pixels(source) for source in found["uniform"]["merged"][first : first + 4]]
        assert all(np.array_equal(got[0].numpy(), np.asarray(image)) for got, image in zip(ours, theirs, strict=True))

    assert found["asked"] and all(name.startswith(f"{address}/") for name in found["asked"])
    assert found["wide"][0] <= found["wide"][1]
