"""What is fetched of a hub repository: the weights of every part, in the best kind that it has."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hub_files import INDEX, hub_of

from deme_core.hub_layouts import PICKLED, resolve_source
from deme_core.weight_files import weight_file

FULL, HALF = "unet/diffusion_pytorch_model{}", "unet/diffusion_pytorch_model.fp16{}"
BESIDE = ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


@pytest.mark.parametrize(
    ("there", "cached", "wanted"),
    [
        ((FULL.format(".safetensors"), FULL.format(".bin"), *BESIDE), (), (FULL.format(".safetensors"), *BESIDE)),
        ((FULL.format(".bin"), *BESIDE), (), (FULL.format(".bin"), *BESIDE)),
        (  # a single file for other programs, of another name, is of no part
            (FULL.format(".bin"), "model-v4.safetensors", *BESIDE), (), (FULL.format(".bin"), *BESIDE),
        ),
        (  # what another program left in the cache decides nothing
            (FULL.format(".bin"), HALF.format(".safetensors"), *BESIDE), (HALF.format(".safetensors"),),
            (FULL.format(".bin"), *BESIDE),
        ),
        ((HALF.format(".safetensors"), *BESIDE), (), (HALF.format(".safetensors"), *BESIDE)),
        ((HALF.format(".bin"), *BESIDE), (), (HALF.format(".bin"), *BESIDE)),
    ],
)  # fmt: skip
def test_every_part_of_a_hub_repository_is_fetched_with_its_weights(
    there: Sequence[str], cached: Sequence[str], wanted: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full precision before fp16, safetensors before pickles, part by part, whatever the others have."""
    index = {part: ["diffusers", "X"] for part in ("vae", "text_encoder")} | {"unet": ["diffusers", "UNet2DModel"]}
    files = {"model_index.json": json.dumps(index)} | {f"{part}/config.json": "{}" for part in index}
    hub = hub_of(monkeypatch, tmp_path / "snapshot", files | dict.fromkeys(there, ""))
    for name in cached:
        hub(name)
    assert resolve_source("owner/name", "abc") == tmp_path / "snapshot"
    found = {str(file.relative_to(tmp_path / "snapshot")) for file in (tmp_path / "snapshot").rglob("*.*")}
    assert found == {*files, *wanted, *cached}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_inside_a_repository_takes_the_place_of_the_denoiser(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model_index.json": json.dumps(INDEX), "unet/config.json": "{}", "unet_ema/config.json": "{}"}
    weights = {f"{part}/diffusion_pytorch_model{suffix}": "" for part in ("unet", "unet_ema")}
    hub_of(monkeypatch, tmp_path, files | weights)
    assert resolve_source("owner/name/unet_ema", "abc") == tmp_path / "unet_ema"
    assert weight_file(tmp_path / "unet_ema") and not weight_file(tmp_path / "unet")


@pytest.mark.parametrize("index", [True, False])
def test_of_a_flat_repository_the_weights_at_the_root_are_fetched(
    index: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"config.json": "{}", PICKLED: ""} | ({"model_index.json": json.dumps(INDEX)} if index else {})
    hub_of(monkeypatch, tmp_path, files)
    assert weight_file(resolve_source("owner/name", "abc")) == tmp_path / PICKLED
