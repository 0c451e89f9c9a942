"""A model from the hub leaves its commit in what is made of it; here the hub is its cache on disk, and no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from clip_stand_in import Compass
from conftest import REPOSITORY, files_of, write_experts, write_pipeline, write_vectors
from diffusers import DiffusionPipeline
from measured_prompts import MOMENTS, PROMPTS, PROTOCOL, noise, of_set

from deme_core.checkpoints import verify_pipeline
from deme_core.commits import commit_of
from deme_core.data.images import Images, save_part
from deme_core.inputs import inputs
from deme_core.merging.merge import write_merged
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.prompt_evaluation import evaluate_prompts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The hub's cache, with owner/name in it at the commit that its branch main has."""
    cached = tmp_path / "hub" / "models--owner--name"
    write_pipeline(cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def load(folder: Path, hub: Path, source: str, revision: str | None) -> str:
    """Run the stage pretrain_load; what it printed."""
    folder.mkdir()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["pretrain_load"] |= {"source": source, "revision": revision}
    digits = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    save_part(folder / "images", "train", digits)
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"inputs": inputs(params, folder)}))
    command = [sys.executable, "-m", "stages.pretrain_load", "--data", "images", "--out", "pretrained"]
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_commit_of_a_base_stands_beside_it_and_pinning_it_changes_no_byte(hub: Path, tmp_path: Path) -> None:
    said = load(tmp_path / "moving", hub, "owner/name", None)
    assert said.count(f"owner/name: commit {COMMIT} of the hub; pretrain_load.revision={COMMIT} pins it\n") == 1
    pretrained = tmp_path / "moving" / "pretrained"
    assert json.loads((pretrained / "hub.json").read_text()) == {"source": "owner/name", "commit": COMMIT}
    verify_pipeline(pretrained)
    assert DiffusionPipeline.from_pretrained(pretrained).unet.config.sample_size == 8
    load(tmp_path / "pinned", hub, "owner/name", COMMIT)
    assert files_of(tmp_path / "pinned" / "pretrained") == files_of(pretrained)  # so that nothing is trained again

    experts = write_experts(pretrained, tmp_path / "experts")
    vectors = write_vectors(pretrained, experts, tmp_path / "vectors")
    write_merged(pretrained, vectors, [0.5, 0.5], tmp_path / "merged", {})
    assert not (tmp_path / "merged" / "hub.json").exists()  # it is no model of the hub


def test_a_base_on_this_machine_has_no_commit(hub: Path, tmp_path: Path) -> None:
    """Not even in the hub's cache: its path would stand in the record."""
    snapshot = hub / "models--owner--name" / "snapshots" / COMMIT
    assert f"commit {COMMIT}" not in load(tmp_path / "project", hub, str(snapshot), None)
    assert not (tmp_path / "project" / "pretrained" / "hub.json").exists()


def test_the_commit_of_a_clip_model_stands_in_the_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("cache") / "models--owner--clip" / "snapshots" / COMMIT
    monkeypatch.setattr("deme_core.metrics.clip_score.load_open_clip", lambda *_: Compass([], folder))
    score = ClipScore.of(ClipScoreParams(model="owner/clip", pretrained=None))
    assert capsys.readouterr().out == f"owner/clip: commit {COMMIT} of the hub; clip_score.revision={COMMIT} pins it\n"
    metrics, _ = evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, of_set(), score, MOMENTS, 6)
    assert metrics["clip_commit"] == COMMIT
    local = ClipScore(Compass([], Path("mine")), "mine")
    assert "clip_commit" not in evaluate_prompts(lambda: [noise()], PROTOCOL, PROMPTS, of_set(), local, MOMENTS, 6)[0]


@pytest.mark.parametrize(
    ("folder", "commit"),
    [
        (f"/cache/models--a--b/snapshots/{COMMIT}", COMMIT),
        (f"/cache/models--a--b/snapshots/{COMMIT}/unet_ema", COMMIT),
        ("/cache/models--a--b/snapshots/main", None),
        (f"/home/{COMMIT}", None),
        ("zoo/digits-ddpm", None),
    ],
)
def test_the_commit_of_a_snapshot(folder: str, commit: str | None) -> None:
    assert commit_of(Path(folder)) == commit
