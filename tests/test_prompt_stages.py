"""The stages of Table 2: a set sampled whole, each model measured on it, and the report of all."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from clip_stand_in import Compass, images
from conftest import REPOSITORY, stage
from PIL import Image
from text_to_image import write_stable_diffusion

from deme_core.data.archive import PROTOCOL, write_archive
from deme_core.data.images import DataParams
from deme_core.data.sources import read_digits
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline
from deme_core.inputs import inputs
from deme_core.metrics.feature_files import read_features, write_features
from deme_core.metrics.features import load_extractor
from deme_core.prompts.saved import read_prompts
from deme_core.prompts.settings import Prompts

MODELS = {"pretrained": "pretrained", "merged": "n4/merged"}


@pytest.fixture
def folder(empty_folder: Path, extractor_dir: Path, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one prompt set, whose CLIP model is a stand-in, and samples of two models."""
    (empty_folder / "directions.txt").write_text("right\nup\nleft\n")
    extractor = load_extractor(str(extractor_dir))
    write_features(empty_folder / "real.safetensors", extractor([digits]), extractor)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text()) | {"evaluate": {"blocks": 2}}
    one = {"source": "file", "path": "directions.txt", "each": 4, "size": 8, "reference": "real.safetensors"}
    params |= {"prompts": {"directions": one}, "clip_score": {"model": "compass", "pretrained": None}}
    params["reference"]["extractor"] = str(extractor_dir)
    params["dag"]["sampled"] = MODELS
    write_params(params)
    protocol = {"images": 12, "prompts": 3, "seed_block": "EVALUATION", "device": "cpu"}
    protocol["sampler"] = {"kind": "pndm", "steps": 2}
    for k, model in enumerate(MODELS):
        samples = empty_folder / "samples" / "directions" / model
        pixels = images(*[20 - 20 * k, 90, 180] * 4).expand(-1, 1, 8, 8).clone()
        pixels[:, :, 1:] = digits[:12, :, 1:]  # the stand-in looks at the first pixel alone
        write_archive(samples, 0, pixels)
        (samples / PROTOCOL).write_text(json.dumps(protocol))
    monkeypatch.setattr("deme_core.metrics.clip_score.load_open_clip", lambda *_: Compass([]))
    return empty_folder


def write_params(params: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params | {"inputs": inputs(params)}))


def write_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    stage("prompts", "--set", "directions", "--out", "data/prompts/directions.json", monkeypatch=monkeypatch)


def evaluate(model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_prompts(monkeypatch)
    stage(
        "evaluate_prompts", "--set", "directions", "--prompts", "data/prompts",
        "--samples", f"samples/directions/{model}",
        "--out", f"measures/prompts/directions/{model}.json",
        "--metrics", f"metrics/prompts/directions/{model}.json",
        "--scores", f"scores/prompts/directions/{model}.csv", monkeypatch=monkeypatch,
    )  # fmt: skip
    return json.loads(Path(f"measures/prompts/directions/{model}.json").read_text())


def test_samples_become_scores_a_table_and_a_gallery(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = (evaluate(model, monkeypatch) for model in MODELS)
    assert after["clip_score"] == pytest.approx(100, abs=1e-3)
    assert before["clip_score"] == pytest.approx((93.97 + 2 * 100) / 3, abs=0.01)  # cos 20° is 0.9397
    assert {"frechet", "frechet_block1", "frechet_block2"} <= before.keys()
    assert "frechet_block3" not in before
    printed = json.loads(Path("metrics/prompts/directions/merged.json").read_text())
    assert list(printed) == ["clip", "low", "high", "frechet"]
    assert printed["clip"] == after["clip_score"]
    scores = pd.read_csv("scores/prompts/directions/pretrained.csv")
    assert list(scores["text"][:4]) == ["right", "up", "left", "right"]
    stage(
        "report_prompts", "--metrics", "measures/prompts", "--scores", "scores/prompts", "--samples", "samples",
        "--out", "reports/prompts", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert {file.name for file in Path("reports/prompts").iterdir()} == {
        "table2.md", "table2.csv", "table2.txt", "gallery.md",
        "directions-1.png", "directions-2.png",  # there are no losses
    }  # fmt: skip
    assert "| DeMe merged, searched w |" in Path("reports/prompts/table2.md").read_text()


def test_a_set_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"directions\.json: no such file; `dvc repro prompts@directions` writes it"):
        read_prompts(Path("data/prompts"), "directions")
    write_prompts(monkeypatch)
    assert read_prompts(Path("data/prompts"), "directions") == Prompts("directions", ("right", "up", "left"), 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "nothing.safetensors"}, r"nothing\.safetensors"),
        ({"reference": "other.safetensors"}, r"other\.safetensors.*extractor"),
    ],
)
def test_what_cannot_measure_is_named_before_anything_is_trained(
    folder: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = load_extractor(yaml.safe_load(Path("params.yaml").read_text())["reference"]["extractor"])
    write_features(Path("other.safetensors"), read_features(Path("real.safetensors"), extractor.sha256),
                   replace(extractor, sha256="0" * 64))  # fmt: skip
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["prompts"]["directions"] |= change
    write_params(params)
    with pytest.raises((InputError, SystemExit), match=message):
        write_prompts(monkeypatch)
    assert not Path("data/prompts").exists()


def test_a_clip_model_that_is_missing_is_named_before_anything_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise InputError("no such CLIP model")

    monkeypatch.setattr("deme_core.metrics.clip_score.load_open_clip", missing)
    with pytest.raises((InputError, SystemExit), match="no such CLIP model"):
        write_prompts(monkeypatch)


def test_a_set_is_sampled_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stable_diffusion(folder / "hub")
    import_pipeline(folder / "hub", folder / "sd")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["sampler"] |= {"kind": "pndm", "steps": 2, "block": 6, "guidance": 2.0}
    params["prompts"]["directions"]["each"] = 2
    write_params(params)
    write_prompts(monkeypatch)
    stage(
        "sample", "--model", "sd", "--pretrained", "sd", "--prompts", "data/prompts", "--set", "directions",
        "--out", "out", monkeypatch=monkeypatch,
    )  # fmt: skip
    protocol = json.loads((folder / "out" / PROTOCOL).read_text())
    assert (protocol["images"], protocol["prompts"]) == (6, 3)


def test_features_of_a_folder_of_real_images(
    empty_folder: Path, rgb_extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = read_digits(DataParams(source="digits", path=None, size=8, held_out=0.2)).pixels[:3]
    for k, image in enumerate(pixels):
        (empty_folder / "real").mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(empty_folder / "real" / f"{k}.png")
    arguments = ["--images", "real", "--size", "8", "--extractor", str(rgb_extractor), "--out", "real.safetensors"]
    monkeypatch.setattr(sys, "argv", ["metrics", *arguments])
    runpy.run_module("deme_core.metrics", run_name="__main__")
    extractor = load_extractor(str(rgb_extractor))
    found = read_features(Path("real.safetensors"), extractor.sha256)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(extractor([pixels.expand(-1, 3, -1, -1)])))
    (empty_folder / "real" / "3.png").write_bytes(b"no image")
    monkeypatch.setattr(sys, "argv", ["metrics", *arguments, "--force"])
    with pytest.raises(SystemExit, match=r"3\.png: not a readable image"):
        runpy.run_module("deme_core.metrics", run_name="__main__")
