"""Costs of the models that the presets name, told before anything is fetched: from their architectures alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ARCHITECTURE, REPOSITORY, sampler_params, training_params
from hub_files import offline_hub
from text_to_image import TOKENS, UNET, write_stable_diffusion
from transformers import CLIPTextConfig, CLIPTextModel

from deme_core.fit import META
from deme_core.params import read
from deme_core.preflight import check, costs
from deme_core.preflight.costs import estimate, measure
from deme_core.preflight.counts import Counts
from deme_core.preflight.public_models import PUBLIC, STABLE_DIFFUSION_1, Architecture
from deme_core.preflight.steps import activation_bytes
from deme_core.training.settings import TrainingParams

LARGE = 113_673_219
PARAMETERS = {  # as published of the models
    "google/ddpm-cifar10-32": 35_746_307,
    **{f"google/ddpm-{name}-256": LARGE for name in ("church", "ema-church", "bedroom", "ema-bedroom")},
    "CompVis/stable-diffusion-v1-4": 859_520_964,
}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    return offline_hub(monkeypatch)


def parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLIC)
def test_an_architecture_has_as_many_parameters_as_its_model(name: str) -> None:
    model = PUBLIC[name].model(META)
    assert parameters(model.denoiser) == PARAMETERS[name]
    assert model.pixels == (3, *[512 if "stable" in name else int(name[-3:].strip("-"))] * 2)


def test_the_frozen_parts_of_stable_diffusion_have_as_many_as_theirs() -> None:
    model = STABLE_DIFFUSION_1.model(META)
    assert model.vae is not None and parameters(model.vae.vae) == 83_653_863
    with META:
        assert parameters(CLIPTextModel(CLIPTextConfig(**STABLE_DIFFUSION_1.text_encoder))) == 123_060_480
    assert model.condition["encoder_hidden_states"].shape == (1, 77, 768)


def test_every_hub_model_of_a_preset_is_known_but_the_placeholders() -> None:
    presets = [yaml.safe_load(file.read_text()) for file in (REPOSITORY / "conf" / "experiment").glob("*.yaml")]
    sources = {preset.get("pretrain_load", {}).get("source", "zoo/") for preset in presets}
    assert {source for source in sources if not source.startswith("zoo/")} - {"your/model"} <= PUBLIC.keys()


def tiny() -> Architecture:
    """That of the pipeline that `write_stable_diffusion` writes."""
    vae = {
        "in_channels": 1, "out_channels": 1, "latent_channels": 4, "block_out_channels": (4, 4), "norm_num_groups": 2,
        "sample_size": 16, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    text = {"max_position_embeddings": TOKENS, "hidden_size": 8}
    return Architecture({"_class_name": "UNet2DConditionModel", **UNET}, vae, text)


@pytest.mark.parametrize(
    "training",
    [
        training_params(batch_size=3),
        training_params(batch_size=3, gradient_checkpointing=True, ema_offload=True, consistency=0.0),
        training_params(batch_size=3, mixed_precision="bf16"),
    ],
    ids=["plain", "saving", "half"],
)
def test_what_is_told_before_a_model_is_there_is_what_is_told_then(
    training: TrainingParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but times: FLOPs, parameters, memory and disk."""
    monkeypatch.setattr(costs, "TIMED", tiny())
    found = measure(write_stable_diffusion(tmp_path / "sd"), training, sampler_params(block=2))
    before = estimate(tiny(), training, sampler_params(block=2))
    for name in ("parameters", "macs", "passes", "pixels", "encoded", "model_states"):
        assert getattr(before, name) == getattr(found, name) > 0, name
    assert before.activations == pytest.approx(found.activations, rel=0.03)  # of half precision a CPU copies some
    counts = Counts(trained=1000, searched=500, sampled=100, calls=10, finetunes=2, probes=14)
    assert before.disk(counts, 3, 4, 100) == found.disk(counts, 3, 4, 100)


def test_times_follow_from_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "TIMED", tiny())
    training = training_params(batch_size=2, gradient_checkpointing=True)
    found = estimate(tiny(), training, sampler_params(block=2))
    assert found.passes == 5  # the teacher's, the forward pass twice, and a backward pass as long as two
    assert found.training == pytest.approx(5 * found.sampling)
    assert 0 < found.encoding < found.decoding  # of this VAE the decoder has more layers
    assert re.fullmatch(r"CPU, \d+ thread\(s\), of a small U-Net in float32, at \S+ GFLOP/s", found.device)


def test_autocasts_copies_of_weights_do_not_grow_with_the_batch() -> None:
    """A batch of many images keeps them once, so that half precision never takes more than full."""
    kept = {
        (batch, precision): activation_bytes(
            tiny().model(), training_params(batch_size=batch, mixed_precision=precision)
        )
        for batch in (1, 2, 100)
        for precision in ("no", "bf16")
    }
    for precision in ("no", "bf16"):
        image = kept[2, precision] - kept[1, precision]
        assert kept[100, precision] == kept[1, precision] + 99 * image
    copies = sum(p.numel() for p in tiny().model().denoiser.parameters() if p.dim() > 1) * 2
    assert kept[1, "bf16"] - (kept[2, "bf16"] - kept[1, "bf16"]) > copies / 2
    assert kept[100, "bf16"] < kept[100, "no"]


# The answer


def answer(source: str, monkeypatch: pytest.MonkeyPatch, **data: object) -> str:
    monkeypatch.chdir(REPOSITORY)
    params = read(REPOSITORY / "params.yaml")
    params["pretrain_load"]["source"] = source
    params["data"] |= data
    params["finetune_range"]["batch_size"] = params["sampler"]["block"] = 4
    return check.check(params)[0]


def test_a_run_of_a_public_model_is_told_its_cost_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Architecture({"_class_name": "UNet2DModel", **ARCHITECTURE})
    monkeypatch.setattr(check, "PUBLIC", {"owner/public": model})
    monkeypatch.setattr(costs, "TIMED", model)
    said = answer("owner/public", monkeypatch)
    assert "of the public architecture of owner/public, random weights: nothing was fetched\n  parameters  " in said
    assert "hf download owner/public" in said
    for line in ("FLOPs of training", "FLOPs of sampling", "disk, at most", "memory of a training", "  h\n"):
        assert line in said
    assert "the model does not fit: params: data.size = 9" in answer("owner/public", monkeypatch, size=9)


def test_a_model_of_nobodys_presets_is_told_its_cost_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    said = answer("owner/name", monkeypatch)
    assert "told once the model is there; before that only of google/ddpm-cifar10-32, " in said
    assert "public architecture" not in said
