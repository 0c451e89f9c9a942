"""The presets hold the paper's settings, and a preset of a user's own says only what differs."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from dag_runs import make_what_is_named

PAPER = {
    "cifar10": {"p": 0.4, "steps": 100, "source": "google/ddpm-cifar10-32", "size": 32},
    "lsun_church": {"p": 0.3, "steps": 50, "source": "google/ddpm-ema-church-256", "size": 256},
    "lsun_bedroom": {"p": 0.3, "steps": 50, "source": "google/ddpm-ema-bedroom-256", "size": 256},
}
OPTIMIZER = {
    "iterations": 20000, "learning_rate": 5e-5, "lr_schedule": "constant", "adam_beta1": 0.95, "adam_beta2": 0.999,
    "weight_decay": 1e-6, "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "ema_decay": 0.9999, "consistency": 1.0,
    "timestep_draw": "per_sample",
}  # fmt: skip


def params_of(preset: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(REPOSITORY / "conf")
    sys.modules.pop("compose", None)
    return yaml.safe_load(__import__("compose").compose_params([f"experiment={preset}"]))


@pytest.mark.parametrize("preset", PAPER)
def test_a_preset_of_the_paper_holds_its_settings(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(preset, monkeypatch)
    finetune, sampler = params["finetune_range"], params["sampler"]
    assert (params["N"], params["p"], params["boundaries"]) == (4, PAPER[preset]["p"], None)
    assert {key: finetune[key] for key in OPTIMIZER} == OPTIMIZER
    assert (sampler["kind"], sampler["steps"], sampler["dtype"]) == ("ddim", PAPER[preset]["steps"], "float16")
    assert params["sample"]["images"] == 50000
    assert params["pretrain_load"]["source"] == PAPER[preset]["source"]
    assert (params["data"]["size"], params["data"]["resize"]) == (PAPER[preset]["size"], "bilinear")
    if preset.startswith("lsun"):
        assert (finetune["batch_size"], finetune["gradient_accumulation"]) == (16, 4)
        assert (params["data"]["crop"], finetune["horizontal_flip"]) == ("random", False)


@pytest.mark.parametrize("preset", PAPER)
def test_hub_revisions_can_be_pinned(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(preset, monkeypatch)
    assert "revision" in params["pretrain_load"]
    assert "revision" in params["data"]


def test_what_a_preset_leaves_out_is_that_of_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    preset, default = params_of("own", monkeypatch), params_of("digits", monkeypatch)
    assert preset.keys() == default.keys()
    assert preset["merge_search"] == default["merge_search"]
    assert preset["finetune_range"]["ema_decay"] == default["finetune_range"]["ema_decay"]


def test_the_preset_of_stable_diffusion_holds_the_settings_of_the_paper_and_of_bk_sdm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = params_of("sd_v1_4", monkeypatch)
    finetune, sampler = params["finetune_range"], params["sampler"]
    assert (params["N"], params["p"], params["pretrain_load"]["source"]) == (4, 0.3, "CompVis/stable-diffusion-v1-4")
    assert {key: finetune[key] for key in OPTIMIZER} == OPTIMIZER
    assert finetune["batch_size"] * finetune["gradient_accumulation"] == 256
    assert (sampler["kind"], sampler["steps"], sampler["guidance"]) == ("pndm", 25, 7.5)
    assert (params["data"]["size"], params["data"]["captions"]) == (512, "text")
    assert set(params["prompts"]) == {"coco", "imagenet", "parti"}
    assert params["encode"]["flips"] == finetune["horizontal_flip"]


@pytest.mark.parametrize("preset", sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml")))
def test_every_preset_is_valid(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(preset, monkeypatch)
    make_what_is_named(params, tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("zoo", "prompts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["validate.py", "--out", "checked"])
    runpy.run_path(str(REPOSITORY / "stages" / "validate.py"), run_name="__main__")
    assert (tmp_path / "checked").is_file()
