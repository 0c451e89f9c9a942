"""Experts that have the base's shapes and are another model: refused in one line, or merged with a warning."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of, write_expert, write_pipeline
from diffusers import DDIMScheduler, UNet2DModel
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import WEIGHTS
from deme_core.errors import InputError
from deme_core.merging import __main__ as cli
from deme_core.merging.hashing import HashedTensors
from deme_core.tensors import read_tensors, write_tensors

Change = Callable[[Path], object]


def merge(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["deme_core.merging", *map(str, args)])
    cli.main()


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image pipeline; not to be written to."""
    folder = write_stable_diffusion(tmp_path_factory.mktemp("sd") / "sd")
    for file in folder.rglob("*.bin"):
        file.unlink()
    return folder


def edited(name: str, **change: Any) -> Change:
    """A JSON file of the expert with other values; None takes a key out."""

    def edit(expert: Path) -> None:
        file = expert / name
        content = json.loads(file.read_text()) | change
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit


def moved(name: str, key: str, by: float = 0.5) -> Change:
    """A tensor of the expert with another first value."""

    def move(expert: Path) -> None:
        state_dict = read_tensors(expert / name)
        state_dict[key].view(-1)[0] += by
        write_tensors(expert / name, state_dict)

    return move


def stored(name: str, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> Change:
    """A weights file of the expert as another writer stores it."""

    def store(expert: Path) -> None:
        write_tensors(expert / name, dict(change(*item) for item in read_tensors(expert / name).items()))

    return store


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
TEXT, VAE = "text_encoder/model.safetensors", f"vae/{WEIGHTS}"

OTHER = {
    "heads": (edited(UNET, attention_head_dim=4), "config.json attention_head_dim is 4, the base's 2"),
    "activation": (edited(UNET, act_fn="gelu"), "config.json act_fn is \"gelu\", the base's \"silu\""),
    "left to its default": (edited(UNET, attention_head_dim=None), "config.json attention_head_dim is 8, the base's 2"),
    "epsilon of the norms": (edited(UNET, norm_eps=1e-6), "config.json norm_eps is 1e-06, the base's 1e-05"),
    "class": (
        edited(UNET, _class_name="UNet3DConditionModel"),
        "config.json _class_name is \"UNet3DConditionModel\", the base's \"UNet2DConditionModel\"",
    ),
    "v-prediction": (
        edited(SCHEDULER, prediction_type="v_prediction"),
        "scheduler prediction_type is \"v_prediction\", the base's \"epsilon\"",
    ),
    "betas": (edited(SCHEDULER, beta_end=0.02), "scheduler beta_end is 0.02, the base's 0.012"),
    "curve of the betas": (
        edited(SCHEDULER, beta_schedule="linear"), "scheduler beta_schedule is \"linear\", the base's \"scaled_linear\""
    ),
    "text encoder": (
        moved(TEXT, "final_layer_norm.bias"), "text_encoder 'final_layer_norm.bias' [0] is 0.5, the base's 0.0"
    ),
    "text encoder's activation": (
        edited("text_encoder/config.json", hidden_act="gelu"),
        "text_encoder/config.json hidden_act is \"gelu\", the base's \"quick_gelu\"",
    ),
    "text encoder pickled": (
        lambda expert: (expert / TEXT).rename(expert / "text_encoder/pytorch_model.bin"),
        "text_encoder's safetensors file is missing, the base's there",
    ),
    "VAE": (moved(VAE, "quant_conv.bias", 1.0), "vae 'quant_conv.bias' [0] is"),
    "scale of the latents": (
        edited("vae/config.json", scaling_factor=0.13025),
        "vae/config.json scaling_factor is 0.13025, the base's 0.18215"
    ),
    "length of a prompt": (
        edited("tokenizer/tokenizer_config.json", model_max_length=9), "tokenizer model_max_length is 9, the base's 12"
    ),
    "tokens": (edited("tokenizer/vocab.json", a=1, b=0), "tokenizer/vocab.json is \"another"),
}  # fmt: skip
SAME = {
    "metadata": edited(UNET, _name_or_path="x", _diffusers_version="0.1.0", dropout=0.1),
    "a default left out": edited("vae/config.json", scaling_factor=None, force_upcast=None),
    "a number for each block": edited(UNET, attention_head_dim=[2, 2, 2, 2]),
    "key unknown to the class": edited(UNET, of_a_later_version=3),
    "other sampler": lambda expert: DDIMScheduler.from_pretrained(expert / "scheduler").save_pretrained(
        expert / "scheduler"
    ),
    "steps of the sampler": edited(SCHEDULER, steps_offset=0, set_alpha_to_one=True),
    "text encoder in half": stored(TEXT, lambda key, value: (key, value.half())),
    "text encoder of transformers 4": stored(TEXT, lambda key, value: (f"text_model.{key}", value)),
    "VAE of diffusers 0.14": stored(VAE, lambda key, value: (key.replace(".to_q.", ".query."), value)),
    "text encoder's metadata": edited("text_encoder/config.json", transformers_version="4.1", torch_dtype="float16"),
    "tokenizer of transformers 5": edited(
        "tokenizer/tokenizer_config.json", bos_token={"__type": "AddedToken", "content": "<|startoftext|>"}, backend="x"
    ),
    "safety checker": moved("safety_checker/model.safetensors", "concept_embeds_weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_an_expert_that_is_another_model_is_refused_in_one_line_or_warned_of(
    sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    change, message = OTHER[name]
    expert = Path(shutil.copytree(sd, tmp_path / "expert"))
    change(expert)
    read: list[str] = []
    flat = HashedTensors.flat
    monkeypatch.setattr(HashedTensors, "flat", lambda self, key, *at: read.append(key) or flat(self, key, *at))
    given = ("--base", sd, "--experts", expert, "--out", tmp_path / "out")
    with pytest.raises(InputError) as error:
        merge(monkeypatch, *given)
    assert str(error.value).startswith(f"{expert} is another model than {sd}: {message}")
    assert "--allow-mismatch" in str(error.value)
    assert "\n" not in str(error.value)
    assert not read
    assert not (tmp_path / "out").exists()
    merge(monkeypatch, *given, "--allow-mismatch")
    assert f"warning: {expert} is another model than {sd}: {message}" in capsys.readouterr().err
    assert read_tensors(tmp_path / "out/unet" / WEIGHTS).keys() == set(read)
    note = json.loads((tmp_path / "out/merge.json").read_text())["note"]
    assert note.startswith(f"Merged with --allow-mismatch. expert 1: {message}")
    assert note in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_value_is_merged_to_the_same_bytes(
    sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expert = Path(shutil.copytree(sd, tmp_path / "expert"))
    moved(f"unet/{WEIGHTS}", "conv_in.bias")(expert)
    merge(monkeypatch, "--base", sd, "--experts", expert / "unet", "--out", tmp_path / "plain")
    SAME[name](expert)
    merge(monkeypatch, "--base", sd, "--experts", expert, "--out", tmp_path / "out")
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "out")


def test_the_schedule_counts_for_a_denoiser_inside_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_pipeline(tmp_path / "base")
    other = write_pipeline(tmp_path / "v", prediction_type="v_prediction")
    for folder in (other, other / "unet"):
        with pytest.raises(InputError, match=r'scheduler prediction_type is "v_prediction", the base\'s "epsilon"'):
            merge(monkeypatch, "--base", base / "unet", "--experts", folder, "--out", tmp_path / "out")


def test_a_plain_unet_is_known_by_its_config(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = write_expert(pipeline, tmp_path / "expert", seed=1)
    config = UNet2DModel.load_config(expert)
    assert config["freq_shift"] == 0
    UNet2DModel.from_config(config | {"freq_shift": 1}).save_config(expert)
    with pytest.raises(InputError, match=r"config.json freq_shift is 1, the base's 0"):
        merge(monkeypatch, "--base", pipeline, "--experts", expert, "--out", tmp_path / "out")
    (expert / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json is missing, the base's there"):
        merge(monkeypatch, "--base", pipeline, "--experts", expert, "--dry-run")
