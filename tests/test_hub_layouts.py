"""Checkpoints in the layouts of the hub: flat, old keys, pickled, EMA variants; each becomes a plain pipeline."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, files_of, training_params, write_experts, write_pipeline, write_vectors
from diffusers import DDPMPipeline, DiffusionPipeline, StableDiffusionPipeline, UNet2DModel
from hub_files import GEOMETRIES, INDEX, write_flat, write_json
from safetensors.torch import load_file
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import (
    WEIGHTS,
    denoiser_dir,
    load_denoiser,
    train_timesteps,
    verify_pipeline,
    weights_file,
)
from deme_core.components import Autoencoder, TextEncoder
from deme_core.data.examples import Pixels
from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.hub_layouts import PICKLED, find_layout, import_pipeline, source_schedule
from deme_core.inputs import inputs
from deme_core.params import read
from deme_core.preflight.artefacts import model_folder
from deme_core.stage import run
from deme_core.tensors import read_recipe, read_tensors
from deme_core.timesteps import TimestepRanges
from deme_core.training.finetune import expert_job, finetune
from deme_core.training.scratch import PretrainParams


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_flat_repository_becomes_a_pipeline(
    tmp_path: Path, geometry: str, index: bool, pickled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dict = write_flat(tmp_path / "flat", geometry, pickled=pickled, index=index)
    import_pipeline(tmp_path / "flat", tmp_path / "out")
    said = capsys.readouterr().out
    assert ("pickled weights; read as tensors alone" in said) == pickled
    verify_pipeline(tmp_path / "out")
    loaded = load_denoiser(denoiser_dir(tmp_path / "out")).state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state_dict.items())
    recipe = read_recipe(tmp_path / "out" / "unet" / WEIGHTS)
    assert recipe == {"converted_from": PICKLED if pickled else WEIGHTS}
    assert train_timesteps(tmp_path / "out") == source_schedule(tmp_path / "flat").config.num_train_timesteps == 1000
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(pipeline, DDPMPipeline)
    assert pipeline.scheduler.config.variance_type == "fixed_small"


def test_the_weights_are_those_that_diffusers_reads_from_the_flat_repository(tmp_path: Path) -> None:
    write_flat(tmp_path / "flat", "cifar10", pickled=False)
    stock = UNet2DModel.from_pretrained(tmp_path / "flat").eval()
    import_pipeline(tmp_path / "flat", tmp_path / "out")
    ours = load_denoiser(tmp_path / "out" / "unet")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x, 500).sample, stock(x, 500).sample)


def test_a_conversion_gives_the_same_bytes_again(tmp_path: Path) -> None:
    write_flat(tmp_path / "flat", "cifar10")
    for name in ("a", "b"):
        import_pipeline(tmp_path / "flat", tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_pipeline_in_order_is_copied_byte_for_byte_without_what_lies_beside_it(
    pipeline_copy: Path, tmp_path: Path
) -> None:
    expected = files_of(pipeline_copy)
    (pipeline_copy / "training.csv").write_text("step\n")
    (pipeline_copy / "old.ckpt").write_bytes(b"never read")
    (pipeline_copy / "unet" / PICKLED).write_bytes(b"never read")
    import_pipeline(pipeline_copy, tmp_path / "out")
    assert files_of(tmp_path / "out") == expected


def test_shards_are_copied_with_their_index(pipeline_copy: Path, tmp_path: Path) -> None:
    (pipeline_copy / "unet" / WEIGHTS).unlink()
    UNet2DModel.from_pretrained(write_pipeline(tmp_path / "whole") / "unet").save_pretrained(
        pipeline_copy / "unet", max_shard_size="20KB"
    )
    import_pipeline(pipeline_copy, tmp_path / "out")
    assert len(list((tmp_path / "out" / "unet").glob("*.safetensors"))) > 1
    assert files_of(tmp_path / "out") == files_of(pipeline_copy)


KINDS_OF_WEIGHTS = {
    "fp16": {"variant": "fp16"},
    "fp16 in shards": {"variant": "fp16", "max_shard_size": "20KB"},
    "pickled": {"safe_serialization": False},
    "pickled in shards": {"safe_serialization": False, "max_shard_size": "20KB"},
    "pickled fp16": {"safe_serialization": False, "variant": "fp16"},
}


@pytest.mark.parametrize("kind", KINDS_OF_WEIGHTS)
def test_weights_that_are_there_in_one_kind_alone_are_read(
    pipeline_copy: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As diffusers saves them: in shards, pickled, or as the variant fp16, which is said and keeps its precision."""
    options, half = KINDS_OF_WEIGHTS[kind], "fp16" in kind
    model = UNet2DModel.from_pretrained(pipeline_copy / "unet").to(torch.float16 if half else torch.float32)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    (pipeline_copy / "unet" / WEIGHTS).unlink()
    model.save_pretrained(pipeline_copy / "unet", **options)
    found = [file.name for file in (pipeline_copy / "unet").iterdir() if file.name != "config.json"]
    assert WEIGHTS not in found and (len(found) > 2) == ("shards" in kind)
    capsys.readouterr()
    import_pipeline(pipeline_copy, tmp_path / "out")
    said = capsys.readouterr().out
    assert said.count("weights in float16, kept so; networks compute in float32") == half
    assert ("read as tensors alone" in said) == ("pickled" in kind)
    verify_pipeline(tmp_path / "out")
    state_dict = read_tensors(weights_file(tmp_path / "out" / "unet"))
    assert state_dict.keys() == expected.keys()
    assert all(
        torch.equal(state_dict[key], value) and state_dict[key].dtype == value.dtype for key, value in expected.items()
    )
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "out"), DDPMPipeline)
    pretrain = PretrainParams(source=str(pipeline_copy), revision=None, train=None)
    assert model_folder(pretrain) == pipeline_copy  # and `make check` sees them


def test_a_missing_shard_of_pickles_is_named(pipeline_copy: Path, tmp_path: Path) -> None:
    model = UNet2DModel.from_pretrained(pipeline_copy / "unet")
    (pipeline_copy / "unet" / WEIGHTS).unlink()
    model.save_pretrained(pipeline_copy / "unet", safe_serialization=False, max_shard_size="20KB")
    next((pipeline_copy / "unet").glob("*-00002-of-*.bin")).unlink()
    with pytest.raises(InputError, match=r"-00002-of-\d+\.bin: no such file, and .*index\.json names it"):
        import_pipeline(pipeline_copy, tmp_path / "out")


@pytest.mark.parametrize("kind", ["fp16", "pickled"])
def test_the_frozen_parts_are_read_in_one_kind_alone_too(tmp_path: Path, kind: str) -> None:
    whole = StableDiffusionPipeline.from_pretrained(write_stable_diffusion(tmp_path / "sd"))
    for name in ("unet", "vae", "text_encoder", "safety_checker"):
        part = getattr(whole, name)
        files = list((tmp_path / "sd" / name).glob("*.safetensors")) + list((tmp_path / "sd" / name).glob("*.bin"))
        safe = next(file for file in files if file.suffix == ".safetensors")
        for file in files:
            file.unlink()
        if kind == "fp16":
            part.half().save_pretrained(tmp_path / "sd" / name, variant="fp16")
        else:
            stem = "diffusion_pytorch_model" if name in ("unet", "vae") else "pytorch_model"
            torch.save(part.state_dict(), tmp_path / "sd" / name / f"{stem}.bin")
        assert not safe.exists()
    import_pipeline(tmp_path / "sd", tmp_path / "out")
    verify_pipeline(tmp_path / "out")
    assert not [file for file in (tmp_path / "out").rglob("*") if "fp16" in file.name or file.suffix == ".bin"]
    frozen = Autoencoder(tmp_path / "out", torch.device("cpu")).vae.state_dict()
    assert all(torch.equal(frozen[key], value.float()) for key, value in whole.vae.state_dict().items())
    encoder = TextEncoder(tmp_path / "out", torch.device("cpu")).model.state_dict()
    assert all(torch.equal(encoder[key], value.float()) for key, value in whole.text_encoder.state_dict().items())


def test_a_base_in_half_precision_is_finetuned_and_merged(pipeline_copy: Path, tmp_path: Path) -> None:
    UNet2DModel.from_pretrained(pipeline_copy / "unet").half().save_pretrained(pipeline_copy / "unet", variant="fp16")
    (pipeline_copy / "unet" / WEIGHTS).unlink()
    import_pipeline(pipeline_copy, tmp_path / "out")
    experts = write_experts(tmp_path / "out", tmp_path / "experts")
    vectors = read_tensors(write_vectors(tmp_path / "out", experts, tmp_path / "vectors")[0])
    base, expert = (read_tensors(weights_file(folder)) for folder in (tmp_path / "out" / "unet", experts[0]))
    assert {value.dtype for value in expert.values()} == {torch.float32}
    for key, value in vectors.items():
        assert torch.equal(value.float(), expert[key] - base[key].float()), key


def test_an_ema_variant_takes_the_place_of_the_denoiser(pipeline_copy: Path, tmp_path: Path) -> None:
    ema = write_pipeline(tmp_path / "other", seed=7) / "unet"
    ema.rename(pipeline_copy / "unet_ema")
    (pipeline_copy / "vae").mkdir()
    for name in ("config.json", "weights.safetensors", "weights.bin"):
        (pipeline_copy / "vae" / name).write_text("{}")
    write_json(pipeline_copy / "model_index.json", INDEX | {"vae": ["diffusers", "AutoencoderKL"]})
    import_pipeline(pipeline_copy / "unet_ema", tmp_path / "out")
    assert files_of(tmp_path / "out" / "unet") == files_of(pipeline_copy / "unet_ema")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model_index.json",
        "scheduler",
        "unet",
        "vae",
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "vae").iterdir()) == ["config.json", "weights.safetensors"]
    verify_pipeline(tmp_path / "out")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/never").touch, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "no file of plain tensors"),
        ({"a": Evil()}, "no file of plain tensors"),
        ({"model": {"a": torch.zeros(1)}}, "holds more than named tensors"),
        ([torch.zeros(1)], "holds more than named tensors"),
        (None, "no file of plain tensors"),
    ],
    ids=["code", "code inside", "nested", "list", "empty"],
)
def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    write_flat(tmp_path / "flat", "cifar10")
    if content is None:
        (tmp_path / "flat" / PICKLED).write_bytes(b"")
    else:
        torch.save(content, tmp_path / "flat" / PICKLED, pickle_module=pickle)
    with pytest.raises(InputError, match=rf"{PICKLED}: {message}"):
        import_pipeline(tmp_path / "flat", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"flat/config\.json: no such file; .*flat must be a pipeline"),
        ("scheduler_config.json", r"flat: no scheduler_config\.json, neither in it, nor in scheduler/"),
        (PICKLED, f"flat: holds neither {WEIGHTS} nor {PICKLED}"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    write_flat(tmp_path / "flat", "cifar10")
    (tmp_path / "flat" / name).unlink()
    with pytest.raises(InputError, match=message):
        import_pipeline(tmp_path / "flat", tmp_path / "out")


def test_the_layout_of_a_pipeline_is_its_own(pipeline: Path) -> None:
    layout = find_layout(pipeline)
    assert (layout.root, layout.denoiser) == (pipeline, pipeline / "unet")
    assert layout.scheduler == pipeline / "scheduler" / "scheduler_config.json"


@pytest.mark.parametrize("projection", ["foldable", "released"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_stage_loads_a_flat_repository_and_an_expert_is_trained_on_it(
    tmp_path: Path, geometry: str, projection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flat(tmp_path / "flat", geometry)
    generator, side = torch.Generator().manual_seed(0), GEOMETRIES[geometry]["sample_size"]
    pixels = torch.randint(0, 256, (8, 3, side, side), generator=generator, dtype=torch.uint8)
    save_part(tmp_path / "images", "train", Images(pixels, torch.zeros(8, dtype=torch.int64)))
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"] = {"source": "flat", "revision": None, "train": None}
    (tmp_path / "params.yaml").write_text(json.dumps(params | {"inputs": inputs(params, tmp_path)}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrain_load", "--data", "images", "--out", "out"])
    monkeypatch.syspath_prepend(REPOSITORY / "stages")
    run(__import__("pretrain_load").main)
    short = training_params(iterations=2, batch_size=2, log_every=1, checkpoint_every=2, projection=projection)
    finetune(expert_job(TimestepRanges.equal(2, 1000), 1, 0.4, short, 0), Path("out"), Pixels(pixels), Path("expert"))
    expert, base = load_file(f"expert/{WEIGHTS}"), load_file(f"out/unet/{WEIGHTS}")
    assert (expert.keys() == base.keys()) == (projection == "foldable")
    assert any(not torch.equal(expert[key], base[key]) for key in base)
