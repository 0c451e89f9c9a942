"""Pipelines on disk: what is broken or unknown is refused by name, what is copied is copied byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import files_of, never
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from deme_core.checkpoints import (
    WEIGHTS,
    copy_pipeline,
    denoiser_dir,
    load_denoiser,
    load_noise_schedule,
    save_denoiser,
    train_timesteps,
    verify_pipeline,
)
from deme_core.errors import InputError
from deme_core.hub_layouts import resolve_source
from deme_core.tensors import read_recipe


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(pipeline: Path, edit: Any) -> None:
    file = pipeline / "unet" / WEIGHTS
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_whole_pipeline_is_accepted(pipeline: Path) -> None:
    verify_pipeline(pipeline)
    assert denoiser_dir(pipeline) == pipeline / "unet"
    assert train_timesteps(pipeline) == 1000


@pytest.mark.parametrize(
    "name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}"]
)
def test_a_missing_file_is_named(pipeline_copy: Path, name: str) -> None:
    (pipeline_copy / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        verify_pipeline(pipeline_copy)


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"])
def test_broken_json_is_named(pipeline_copy: Path, name: str) -> None:
    (pipeline_copy / name).write_text('{"cut')
    with pytest.raises(InputError, match=rf"{name}: no valid JSON"):
        verify_pipeline(pipeline_copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named_with_its_tensor(pipeline_copy: Path, value: float) -> None:
    edit_weights(pipeline_copy, lambda tensors: tensors["mid_block.resnets.0.conv1.weight"][1, 0, 0].fill_(value))
    with pytest.raises(InputError, match=r"'mid_block\.resnets\.0\.conv1\.weight' holds NaN or infinite values"):
        verify_pipeline(pipeline_copy)


@pytest.mark.parametrize("name", ["unet/model.bin", "unet/model.pt", "vae/x.ckpt", "a.pth", "b.pkl"])
def test_a_pickle_is_refused(pipeline_copy: Path, name: str) -> None:
    (pipeline_copy / name).parent.mkdir(exist_ok=True)
    (pipeline_copy / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}: pickled weights are not read"):
        verify_pipeline(pipeline_copy)


def test_a_wrong_shape_is_named(pipeline_copy: Path) -> None:
    edit_weights(pipeline_copy, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(5)}))
    with pytest.raises(InputError, match=r"'conv_in\.bias' has shape \[5\] in .*\[4\] in its config\.json"):
        verify_pipeline(pipeline_copy)


def test_a_missing_key_is_named(pipeline_copy: Path) -> None:
    edit_weights(pipeline_copy, lambda tensors: tensors.pop("conv_in.bias"))
    with pytest.raises(InputError, match=r"its config\.json has 'conv_in\.bias', .* has not"):
        verify_pipeline(pipeline_copy)
    with pytest.raises(InputError, match=r"'conv_in\.bias'"):
        load_denoiser(pipeline_copy / "unet")


def test_an_unexpected_key_is_named(pipeline_copy: Path) -> None:
    edit_weights(pipeline_copy, lambda tensors: tensors.update({"conv_in.extra": torch.zeros(1)}))
    with pytest.raises(InputError, match=r"has 'conv_in\.extra', its config\.json has not"):
        verify_pipeline(pipeline_copy)


def test_truncated_weights_are_named(pipeline_copy: Path) -> None:
    file = pipeline_copy / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match=f"{WEIGHTS} is no whole safetensors file"):
        verify_pipeline(pipeline_copy)


def test_sharded_weights_are_read(pipeline_copy: Path) -> None:
    whole = load_denoiser(pipeline_copy / "unet").state_dict()
    UNet2DModel.from_pretrained(pipeline_copy / "unet").save_pretrained(pipeline_copy / "unet", max_shard_size="10KB")
    (pipeline_copy / "unet" / WEIGHTS).unlink(missing_ok=True)
    verify_pipeline(pipeline_copy)
    sharded = load_denoiser(pipeline_copy / "unet").state_dict()
    assert sharded.keys() == whole.keys()
    assert all(torch.equal(sharded[key], whole[key]) for key in whole)
    next((pipeline_copy / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(InputError, match=r"-00002-of-\d+\.safetensors: no such file"):
        verify_pipeline(pipeline_copy)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EulerScheduler"}, "scheduler EulerScheduler is unknown"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type 'score' is unknown"),
        ("unet/config.json", {"_class_name": "Transformer2D"}, "denoiser Transformer2D is unknown; known are UNet2DM"),
        ("model_index.json", {"unet": ["diffusers", "VQModel"]}, "names no denoiser; known are UNet2DModel"),
    ],
)
def test_an_unknown_class_is_named_with_the_known_ones(
    pipeline_copy: Path, file: str, change: dict[str, Any], message: str
) -> None:
    edit_json(pipeline_copy / file, **change)
    with pytest.raises(InputError, match=message):
        verify_pipeline(pipeline_copy)


def test_copy_is_byte_for_byte_without_what_lies_beside_the_pipeline(pipeline_copy: Path, tmp_path: Path) -> None:
    (pipeline_copy / "scheduler" / "notes.txt").write_text("ours\r\n")
    expected = files_of(pipeline_copy)
    (pipeline_copy / "training.csv").write_text("step\n")
    (pipeline_copy / "logs").mkdir()
    (pipeline_copy / "logs" / "events").write_text("")
    (pipeline_copy / ".cache").mkdir()
    (pipeline_copy / ".cache" / "lock").write_text("")
    (pipeline_copy / "unet" / ".hidden").write_text("")
    copy_pipeline(pipeline_copy, tmp_path / "copy", weights=True)
    assert files_of(tmp_path / "copy") == expected
    copy_pipeline(pipeline_copy, tmp_path / "bare", weights=False)
    assert files_of(tmp_path / "bare") == {k: v for k, v in expected.items() if k != f"unet/{WEIGHTS}"}


def test_a_loaded_denoiser_is_that_of_diffusers(pipeline: Path) -> None:
    stock = UNet2DModel.from_pretrained(pipeline / "unet").eval()
    ours = load_denoiser(pipeline / "unet")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x, 500).sample, stock(x, 500).sample)
    assert not ours.training


def test_a_saved_denoiser_is_read_back_with_its_recipe(pipeline: Path, tmp_path: Path) -> None:
    state_dict = {key: value + 1 for key, value in load_denoiser(pipeline / "unet").state_dict().items()}
    save_denoiser(tmp_path / "expert", pipeline / "unet", state_dict, {"range": 2})
    loaded = load_denoiser(tmp_path / "expert").state_dict()
    assert all(torch.equal(loaded[key], state_dict[key]) for key in state_dict)
    assert read_recipe(tmp_path / "expert" / WEIGHTS) == {"range": 2}
    assert sorted(path.name for path in (tmp_path / "expert").iterdir()) == ["config.json", WEIGHTS]
    stock = UNet2DModel.from_pretrained(tmp_path / "expert")
    assert torch.equal(stock.conv_in.bias, state_dict["conv_in.bias"])


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_the_noise_schedule_is_that_of_the_pipeline(pipeline_copy: Path, scheduler: str) -> None:
    changes = {"beta_end": 0.03, "num_train_timesteps": 500, "prediction_type": "v_prediction"}
    edit_json(pipeline_copy / "scheduler" / "scheduler_config.json", _class_name=scheduler, **changes)
    schedule = load_noise_schedule(pipeline_copy)
    stock = DDIMScheduler.from_pretrained(pipeline_copy / "scheduler")
    assert torch.equal(schedule.alphas_cumprod, stock.alphas_cumprod)
    assert len(schedule.alphas_cumprod) == train_timesteps(pipeline_copy) == 500
    assert schedule.config.prediction_type == "v_prediction"


def test_a_directory_is_its_own_source(pipeline: Path) -> None:
    assert resolve_source(str(pipeline), None) == pipeline


@pytest.mark.parametrize(
    "source",
    ["zoo/nothing", "./nothing", "../nothing", "/nothing/here", "nothing", "a/b/c/d", "/home/me/my model",
     "my models/base", "~/nothing", "modèles/base", "file/weights.ckpt"],
)  # fmt: skip
def test_a_source_that_is_neither_directory_nor_hub_id_is_never_asked_of_the_hub(
    source: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    (empty_folder / "file").mkdir()
    (empty_folder / "file" / "weights.ckpt").touch()
    with pytest.raises(InputError, match="no such directory; give a diffusers pipeline directory") as refused:
        resolve_source(source, None)
    assert f"pretrain_load.source = {source!r}" in str(refused.value)


def test_what_the_hub_takes_for_no_id_ends_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"owner/-name: cannot be fetched from the hub .*, and .* has no such directory"
    ):
        resolve_source("owner/-name", None)


@pytest.mark.parametrize(("message", "shown"), [("no route to host\nmore lines", "no route to host"), ("", "OSError")])
def test_a_hub_id_out_of_reach_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, message: str, shown: str) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError(message)

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(InputError, match=rf"owner/name: cannot be fetched .*\({shown}.*download it") as error:
        resolve_source("owner/name", "main")
    assert "\n" not in str(error.value)


def test_diffusers_loads_a_copy(pipeline: Path, tmp_path: Path) -> None:
    copy_pipeline(pipeline, tmp_path / "copy", weights=True)
    unet = DiffusionPipeline.from_pretrained(tmp_path / "copy").unet
    assert torch.equal(unet.conv_in.weight, load_denoiser(pipeline / "unet").conv_in.weight)
