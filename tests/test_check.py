"""`make check`: its answer to runs that are whole, to those that lack something, and to every preset."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from composing import composed
from conftest import REPOSITORY
from hub_files import offline_hub

from deme_core.errors import InputError
from deme_core.inputs import inputs
from deme_core.params import read
from deme_core.preflight.check import check


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    return offline_hub(monkeypatch)


def test_a_run_that_has_everything_is_told_its_cost(
    pipeline: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"], params["reference"]["extractor"] = str(pipeline), str(extractor_dir)
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 4
    report, complete = check(params | {"inputs": inputs(params)})
    assert complete
    assert "everything is there" in report
    assert "from what was timed on one " in report
    assert "MISSING" not in report


def test_a_run_of_too_few_images_for_an_interval_is_warned_of(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"] = str(pipeline)
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 4
    params["inputs"] = inputs(params)
    report, complete = check(params)
    assert complete and "warning" not in report
    params["sample"]["images"] = 240
    report, complete = check(params)
    assert complete and "warning: Fréchet distances get no corrected value" in report
    (tmp_path / "config.json").write_text("{")  # which it names as missing
    params["reference"]["extractor"] = str(tmp_path)
    assert "config.json: no valid JSON" in check(params)[0]


@pytest.mark.parametrize("missing", [False, True], ids=["whole", "lacking"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["N=2000"], "N = 2000"),
        (["+foo=1"], "foo = '…': unknown key"),
        (["sampler.steps=2000"], "sampler.steps = 2000"),
        (["sample.images=10"], "sample.images = 10: must be a multiple of"),
        (["data.held_out=0"], "held_out"),
        (["merge.method=per_block"], "merge.blocks"),
        (["directions=[range,early]", "early.source=nowhere"], "early.source = 'nowhere'"),
        (["+prompts.b={source: coco, path: prompts/digits-free.txt}"], "prompts/digits-free.txt: not a captions JSON"),
        (["+finetune_range.epochs=3"], "unknown key finetune_range.epochs"),
    ],
)
def test_what_validate_refuses_is_refused_whatever_is_missing(
    overrides: list[str], message: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    lacking = ["data.source=zip", "data.path=no.zip", "data.grey=true", "+prompts.a={source: file, path: no.txt}"]
    params = composed(*overrides, *(lacking if missing else []), monkeypatch=monkeypatch)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        check(params)
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_told_all_at_once_and_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    named = {
        "data.path": "no*.zip", "reference.extractor": "no/extractor", "reference.statistics": "no.npz",
        "pretrain_load.source": "no model", "clip_score.model": "no/clip", "+prompts.a.path": "a.txt",
        "+prompts.a.reference": "a.safetensors",
    }  # fmt: skip
    overrides = [f"{key}={value!r}" for key, value in named.items()]
    others = ["data.source=zip", "data.grey=true", "clip_score.pretrained=null", "+prompts.a.source=file"]
    report, complete = check(composed(*others, *overrides, monkeypatch=monkeypatch))
    assert not complete
    assert all(re.search(rf"MISSING .*{re.escape(value)}", report) for value in named.values())


PRESETS = sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))
ALIKE = {"lsun_bedroom"}  # the network of lsun_church


@pytest.mark.parametrize("preset", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in PRESETS])
def test_every_preset_gets_an_answer_offline_and_its_exit_status(preset: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [
        sys.executable,
        "conf/check.py",
        f"experiment={preset}",
        "sampler.block=2",
        "finetune_range.batch_size=2",
    ]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert run.stderr == ""
    assert run.stdout.startswith(f"{preset}: what it needs\n")
    assert run.returncode == ("MISSING" in run.stdout)
    assert ("missing\n" in run.stdout) == bool(run.returncode)


def test_make_hands_the_experiment_over() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "python conf/check.py experiment=$(EXPERIMENT)" in makefile
    assert yaml.safe_load((REPOSITORY / "params.yaml").read_text())["name"] == "digits"
