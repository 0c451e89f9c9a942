"""A base that does not fit the data, the condition or the sampler is refused before anything is trained on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ARCHITECTURE, REPOSITORY, stage, write_pipeline
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from image_files import encoded, noise, write_folder
from text_to_image import SIZE, UNET, captioned, write_data, write_stable_diffusion

from deme_core.dag import dag
from deme_core.data.images import DataParams, Images, save_part
from deme_core.data.sources import SOURCES, image_shape, read_parts
from deme_core.errors import InputError
from deme_core.inputs import inputs
from deme_core.params import read
from deme_core.preflight.check import check
from deme_core.preflight.validation import check_params


def unconditional(folder: Path, scheduler: dict[str, Any] | None = None, **architecture: Any) -> Path:
    """A DDPMPipeline whose U-Net differs from the fixture's."""
    DDPMPipeline(UNet2DModel(**ARCHITECTURE | architecture), DDPMScheduler(**scheduler or {})).save_pretrained(folder)
    return folder


def latent_diffusion(folder: Path) -> Path:
    """A pipeline whose x_0 are latents of a VQModel, in the shape of the data's images."""
    vae = VQModel(in_channels=1, out_channels=1, latent_channels=1, block_out_channels=(4,), norm_num_groups=2,
                  num_vq_embeddings=4)  # fmt: skip
    LDMPipeline(vqvae=vae, unet=UNet2DModel(**ARCHITECTURE), scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def text_to_image(folder: Path, **unet: Any) -> Path:
    """A StableDiffusionPipeline whose U-Net differs from that of version 1."""
    write_stable_diffusion(folder)
    if unet:
        shutil.rmtree(folder / "unet")
        UNet2DConditionModel(**UNET | unet).save_pretrained(folder / "unet")
    return folder


XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
MISFITS: dict[str, tuple[Callable[..., Path], dict[str, Any], str]] = {
    "another size": (unconditional, {"sample_size": 16}, r"data\.size = 8: .* on 16×16 pixels; set data\.size=16"),
    "no square": (unconditional, {"sample_size": (8, 16)}, "works on 8×16 pixels; images are square here"),
    "a side that cannot be halved": (unconditional, {"sample_size": 7}, "the network cannot be called with x_t of"),
    "latents": (latent_diffusion, {}, r"a LDMPipeline has the part 'vqvae' \(VQModel\)"),
    "class labels": (unconditional, {"num_class_embeds": 10}, "num_class_embeds 10: it takes a class label"),
    "a second time": (unconditional, {"class_embed_type": "timestep"}, "class_embed_type 'timestep': it takes a class"),
    "colour": (unconditional, {"in_channels": 3, "out_channels": 3}, r"images of 1 channel\(s\): .* makes images of 3"),
    "a learned variance": (unconditional, {"out_channels": 2}, "in_channels 1, out_channels 2, a learned variance"),
    "a variance that it lacks": (
        unconditional, {"scheduler": {"variance_type": "learned_range"}}, "variance_type 'learned_range', and",
    ),
    "a mask": (text_to_image, {"in_channels": 9}, "in_channels 9, and the latents of the VAE have 4: .*inpainting"),
    "added conditions": (text_to_image, XL, r"addition_embed_type 'text_time': it takes added conditions"),
    "another text encoder": (text_to_image, {"cross_attention_dim": 16}, "the network cannot be called with .* text"),
    "a guidance scale": (text_to_image, {"time_cond_proj_dim": 8}, "time_cond_proj_dim 8: it takes the guidance scale"),
}  # fmt: skip


def params_of(base: Path, folder: Path, text: bool) -> dict[str, Any]:
    """The default run's params with this base, on digits or on digits with captions; few images and steps."""
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"] = str(base)
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 2
    if text:
        params["data"] |= {"source": "digits_t2i", "size": SIZE}
        params["judges"]["folder"] = "zoo/judges/fashion-mnist-16/final"  # for images of that size
        params["prompts"] = {"captions": {"source": "heldout", "path": "data/images"}}
        params["sample"]["prompts"] = "captions"
        params["dag"] = dag(4, [], {"captions": None}, directions=params["directions"], analyses=params["analyses"])
    return params | {"inputs": inputs(params, folder)}


def loaded(params: dict[str, Any], images: Images, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage pretrain_load on these images."""
    monkeypatch.chdir(folder)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    write_data(folder / "images", images)
    stage("pretrain_load", "--data", "images", "--out", "pretrained", monkeypatch=monkeypatch)


@pytest.mark.parametrize("name", MISFITS)
def test_a_base_that_does_not_fit_is_refused_everywhere_in_the_same_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, changes, message = MISFITS[name]
    base, text = write(tmp_path / "base", **changes), write is text_to_image
    monkeypatch.chdir(REPOSITORY)
    params = params_of(base, REPOSITORY, text)
    with pytest.raises(InputError, match=message) as refused:
        check_params(params)
    assert "\n" not in str(refused.value)
    report, complete = check(params)
    assert not complete
    assert f"the model does not fit: {refused.value}" in report
    size = SIZE if text else 8
    with pytest.raises(SystemExit) as stopped:
        loaded(params, captioned(size=size), tmp_path, monkeypatch)
    assert stopped.value.code == f"error: {refused.value}"
    assert not Path("pretrained").exists()


def test_what_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in {"plain": write_pipeline, "text": text_to_image}.items():
        base = write(tmp_path / name / "base")
        params = params_of(base, tmp_path / name, name == "text")
        monkeypatch.chdir(REPOSITORY)
        check_params(params | {"inputs": inputs(params)})
        loaded(params, captioned(size=SIZE if name == "text" else 8), tmp_path / name, monkeypatch)
        assert Path("pretrained/unet/config.json").is_file()


def test_a_text_to_image_base_needs_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = text_to_image(tmp_path / "base")
    plain = Images(captioned().pixels, captioned().labels)
    with pytest.raises(SystemExit, match=r"images without captions: .* name their column with data\.captions"):
        loaded(params_of(base, tmp_path, text=True), plain, tmp_path, monkeypatch)


def test_without_data_a_base_of_any_size_is_taken_but_none_with_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = Images(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    for name, changes in {"labels": {"num_class_embeds": 10}, "plain": {"sample_size": 16}}.items():
        params = params_of(unconditional(tmp_path / name, **changes), tmp_path, text=False)
        Path("params.yaml").write_text(yaml.safe_dump(params))
        save_part(tmp_path / "images", "train", empty)
        arguments = ("pretrain_load", "--data", "images", "--out", "pretrained")
        if name == "labels":
            with pytest.raises(SystemExit, match="it takes a class label"):
                stage(*arguments, monkeypatch=monkeypatch)
        else:
            stage(*arguments, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": 16}, r"data\.size = 8: the denoiser of pretrain_load\.train\.architecture works on 16×16"),
        ({"in_channels": 3, "out_channels": 3}, r"images of 1 channel\(s\): pretrain_load\.train\.architecture makes"),
        ({"num_class_embeds": 10}, r"pretrain_load\.train\.architecture: num_class_embeds 10: it takes a class label"),
        ({"sample_sise": 8}, "no UNet2DModel can be built from pretrain_load.train.architecture .*sample_sise"),
    ],
)
def test_a_base_that_is_yet_to_be_trained_is_refused_before_it_is(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_of(Path("train"), REPOSITORY, text=False)
    architecture = json.loads(json.dumps(ARCHITECTURE | changes))
    training = params["finetune_range"] | {"consistency": 0.0, "projection": "none", "dropout": None}
    params["pretrain_load"]["train"] = {"architecture": architecture, "noise_schedule": {}, "training": training}
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(InputError, match=message):
        check_params(params)
    assert "the model does not fit: " in check(params)[0]
    with pytest.raises(SystemExit, match=message):
        loaded(params, captioned(size=8), tmp_path, monkeypatch)
    assert not Path(".checkpoints").exists()


@pytest.mark.parametrize("grey", [True, False])
def test_the_shape_that_params_announce_is_that_of_the_images(grey: bool, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", {f"{k}.png": encoded(noise(9, 9, seed=k)) for k in range(4)})
    shutil.make_archive(str(tmp_path / "pictures"), "zip", tmp_path / "pictures")
    places = {"folder": "pictures", "zip": "pictures.zip", "digits": None, "digits_t2i": None}
    for source, place in places.items():
        params = DataParams(
            source=source, path=place and str(tmp_path / place), size=8, held_out=0.0, grey=grey
        )  # fmt: skip
        assert image_shape(params) == read_parts(params)["train"].shape, source
    assert image_shape(DataParams(source="none", path=None, size=8, held_out=None)) is None
    assert {"hub", "parquet", "idx"} == SOURCES.keys() - {*places, "none"}
