"""Extractors of real images, through small networks saved in the formats of the large ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from torch import nn

from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.features import EXTRACTORS, feature_count, load_extractor, read_config
from deme_core.metrics.inception import BLOCK, FILE, RESIZING


class Layers(nn.Module):
    """Any network from 3 channels to 2,048 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 16)


class Stub(nn.Module):
    """The interface of the TorchScript Inception: `layers`, and `return_features` with its own resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = self.layers((x - 128) / 128)
        return x if return_features else x.mean((1, 2, 3))


def write_stub(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.jit.script(Stub()).save(str(folder / FILE))
    return folder / FILE


def write_config(folder: Path, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def inception(folder: Path, resize: str = "clean", **changes: Any) -> str:
    config = {"_class_name": "Inception", "resize": resize, "weights": str(folder / FILE)} | changes
    return write_config(folder / resize, **config)


def pictures(n: int = 5, channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


# Inception


@pytest.mark.parametrize("resize", RESIZING)
def test_inception_features_are_those_of_clean_fids_folder_path(tmp_path: Path, resize: str) -> None:
    """Its resizer on each image, its wrapper of the network: what `get_folder_features` computes from PNGs."""
    pytest.importorskip("cleanfid")
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    write_stub(tmp_path)
    images = pictures()
    network = InceptionV3W(str(tmp_path), download=False, resize_inside=resize == "legacy_tensorflow")
    expected = []
    for k, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")
        resized = build_resizer(resize)(np.array(Image.open(tmp_path / f"{k}.png")))
        expected.append(network(torch.tensor(resized).permute(2, 0, 1)[None].float().contiguous()))
    features = load_extractor(inception(tmp_path, resize))([images])
    assert features.shape == (5, 2048)
    np.testing.assert_allclose(features, torch.cat(expected).detach().numpy(), rtol=0, atol=1e-5)


def test_inception_features_are_those_of_get_folder_features(tmp_path: Path) -> None:
    try:
        from cleanfid.fid import get_folder_features
    except Exception as error:
        pytest.skip(f"clean-fid's folder path needs a torchvision that matches torch: {error}")
    from cleanfid.inception_torchscript import InceptionV3W

    write_stub(tmp_path / "model")
    images = pictures()
    for k, image in enumerate(images):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{k}.png")
    expected = get_folder_features(
        str(tmp_path / "images"), InceptionV3W(str(tmp_path / "model"), download=False), num_workers=0, mode="clean",
        device=torch.device("cpu"), verbose=False,
    )  # fmt: skip
    features = load_extractor(inception(tmp_path / "model"))([images])
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


def test_features_do_not_depend_on_how_the_stream_is_cut(tmp_path: Path) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path)
    extractor, images = load_extractor(inception(tmp_path)), pictures(BLOCK + 10)
    assert np.array_equal(extractor([images]), extractor(images.split(7)))


def test_grey_images_are_seen_as_rgb(tmp_path: Path) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path)
    extractor, grey = load_extractor(inception(tmp_path)), pictures(channels=1)
    assert np.array_equal(extractor([grey]), extractor([grey.repeat(1, 3, 1, 1)]))


def test_the_hash_tells_weights_and_resizing_apart(tmp_path: Path) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path)
    hashes = {load_extractor(inception(tmp_path, resize)).sha256 for resize in RESIZING}
    assert len(hashes) == 3
    assert load_extractor(inception(tmp_path)).sha256 in hashes
    torch.jit.script(Stub()).save(str(tmp_path / FILE))
    assert load_extractor(inception(tmp_path)).sha256 not in hashes


def test_missing_weights_are_downloaded_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cleanfid")
    published = write_stub(tmp_path / "web")
    monkeypatch.setattr("cleanfid.downloads_helper.inception_url", published.as_uri())
    folder = inception(tmp_path / "local")
    assert load_extractor(folder)([pictures()]).shape == (5, 2048)
    assert f"downloading {published.as_uri()} to {tmp_path / 'local' / FILE}" in capsys.readouterr().out
    load_extractor(folder)
    assert capsys.readouterr().out == ""


def test_weights_that_cannot_be_fetched_leave_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanfid")
    monkeypatch.setattr("cleanfid.downloads_helper.inception_url", (tmp_path / "nothing").as_uri())
    with pytest.raises(InputError, match=rf"{FILE}: no such file, and file:.* cannot be fetched .*put it there"):
        load_extractor(inception(tmp_path / "local"))
    assert not list((tmp_path / "local").glob("*inception-2015*"))


@pytest.mark.parametrize("content", [b"", b"no torchscript", "another module"])
def test_a_file_that_is_no_torchscript_inception_is_refused(tmp_path: Path, content: bytes | str) -> None:
    pytest.importorskip("cleanfid")
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    else:
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / FILE))
    with pytest.raises(InputError, match=rf"{FILE}: no TorchScript Inception \(.+\); fetch it again") as error:
        load_extractor(inception(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unknown_resizing_and_another_file_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resize = 'bicubic' is unknown; known are clean, legacy_pytorch, legacy_tens"):
        load_extractor(inception(tmp_path, "bicubic"))
    with pytest.raises(InputError, match=rf"weights = 'x/other\.pt': the file must be named {FILE}"):
        load_extractor(inception(tmp_path, weights="x/other.pt"))


def test_without_clean_fid_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanfid.resize", None)
    with pytest.raises(InputError, match=r"needs the package clean-fid .*: pip install 'deme\[real-images\]'"):
        load_extractor(inception(tmp_path))


# DINOv2


def write_dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    processor = {
        "crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_dinov2_features_are_its_class_token(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    source = write_dinov2(tmp_path / "model")
    images = pictures(size=28)  # the size of the crop: nothing is resized
    extractor = load_extractor(write_config(tmp_path / "dino", _class_name="DINOv2", source=str(source)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(source)(pixel_values=(images / 255 - mean) / std).pooler_output
    np.testing.assert_allclose(extractor([images]), expected.numpy(), rtol=0, atol=1e-5)
    assert extractor([pictures(3, channels=1, size=8)]).shape == (3, 16)
    assert extractor.name == "dino"


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    source = write_dinov2(tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(InputError, match="holds a model of type vit, not dinov2"):
        load_extractor(write_config(tmp_path / "dino", _class_name="DINOv2", source=str(source)))


def test_a_model_without_its_preprocessing_is_refused(tmp_path: Path) -> None:
    source = write_dinov2(tmp_path / "model")
    (source / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json: no such file; the model's folder must hold"):
        load_extractor(write_config(tmp_path / "dino", _class_name="DINOv2", source=str(source)))


def test_a_hub_id_is_fetched_at_its_revision_or_its_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_dinov2(tmp_path / "model")
    asked = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        if name == "no/where":
            raise OSError("no route\nto host")
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    load_extractor(write_config(tmp_path / "dino", _class_name="DINOv2", source="owner/name", revision="abc"))
    assert asked == [("owner/name", "abc")]
    assert "extractor owner/name (revision abc): downloading" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no/where: neither a directory nor to be had .*no route.*fetch config\.json"):
        load_extractor(write_config(tmp_path / "dino", _class_name="DINOv2", source="no/where"))


# CLIP


def write_clip(folder: Path, mean: float) -> Path:
    open_clip = pytest.importorskip(
        "open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception
    )
    from safetensors.torch import save_file

    model_config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocessing = {"mean": [mean] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": model_config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_clip_features_come_with_the_preprocessing_of_the_weights(tmp_path: Path) -> None:
    features = []
    for mean in (0.3, 0.6):
        source = write_clip(tmp_path / str(mean), mean)
        extractor = load_extractor(write_config(tmp_path / f"clip{mean}", _class_name="CLIP", source=str(source)))
        features.append(extractor([pictures(size=32)]))
        import open_clip

        model = open_clip.create_model_from_pretrained(f"local-dir:{source}")[0].eval()
        with torch.no_grad():
            expected = model.encode_image((pictures(size=32) / 255 - mean) / 0.2)
        np.testing.assert_allclose(features[-1], expected.numpy(), rtol=0, atol=1e-4)
    assert features[0].shape == (5, 8)
    assert not np.allclose(*features, atol=1e-2)


def test_without_open_clip_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match="needs open_clip_torch and a torchvision that matches torch"):
        load_extractor(write_config(tmp_path, _class_name="CLIP", source="x"))


# The share of the CPU


@pytest.mark.parametrize("kind", [*RESIZING, "DINOv2", "CLIP", "SmallClassifier"])
def test_features_do_not_depend_on_who_prepares_the_images(tmp_path: Path, kind: str, rgb_extractor: Path) -> None:
    """Not on the number of workers, and not on whether these prepare a few images each for a network on a GPU."""
    if kind in RESIZING:
        pytest.importorskip("cleanfid")
        write_stub(tmp_path)
        folder = inception(tmp_path, kind)
    elif kind == "SmallClassifier":
        folder = str(rgb_extractor)
    else:
        source = write_dinov2(tmp_path / "model") if kind == "DINOv2" else write_clip(tmp_path / "model", 0.3)
        folder = write_config(tmp_path / "own", _class_name=kind, source=str(source))
    extractor, images = replace(load_extractor(folder), block=50), pictures(BLOCK + 12, size=20)

    def as_on_a_gpu(x: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(1)  # whatever the cores do, this network is not theirs
        return extractor.forward(x)

    with torch.inference_mode():  # whole blocks in one thread
        expected = torch.cat([extractor.forward(extractor.prepare(block)) for block in images.split(50)]).numpy()
    for threads in (1, 3):
        for way in (extractor, replace(extractor, forward=as_on_a_gpu, device=torch.device("cuda"))):
            torch.set_num_threads(threads)
            assert np.array_equal(way(images.split(13)), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_features_that_are_not_finite_are_refused(threads: int) -> None:
    torch.set_num_threads(threads)
    bright = torch.tensor([9, 0, 7, 0, 5], dtype=torch.uint8).reshape(5, 1, 1, 1)
    extractor = Extractor("inverse", "0", lambda pixels: 1 / pixels.float().flatten(1), 3)
    with pytest.raises(InputError, match=r"^extractor inverse: 1 of 3 images have features that are not finite; its "):
        extractor([bright])
    assert torch.get_num_threads() == threads


# The table


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in REPOSITORY.glob("zoo/*/config.json")))
def test_every_extractor_of_the_zoo_is_a_row_of_the_table(folder: str) -> None:
    assert read_config(REPOSITORY / "zoo" / folder)["_class_name"] in EXTRACTORS


@pytest.mark.parametrize(
    ("folder", "count"), [("digits-features", 64), ("fashion-mnist-16-features", 64), ("inception-clean", 2048),
    ("digits-clip", 64), ("dinov2-large", None), ("clip-vit-b-32", None)],
)  # fmt: skip
def test_the_number_of_features_is_known_before_the_weights_are(
    folder: str, count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert feature_count(f"zoo/{folder}") == count
    if folder in ("digits-features", "digits-clip"):
        assert load_extractor(f"zoo/{folder}")([pictures(2, channels=1, size=8)]).shape == (2, count)


def test_the_number_of_features_of_a_published_model_is_that_of_its_folder_or_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_dinov2(tmp_path / "model")
    assert feature_count(write_config(tmp_path / "dino", _class_name="DINOv2", source=str(source))) == 16
    asked = write_config(tmp_path / "cached", _class_name="DINOv2", source="owner/name", revision="abc")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file, revision: str(source / file) if name else None
    )
    assert feature_count(asked) == 16
    monkeypatch.undo()
    assert feature_count(write_config(tmp_path / "odd", _class_name="DINOv2", source="no//hub id")) is None
    assert feature_count(str(tmp_path / "nothing")) is None


def test_a_folder_of_another_format_is_refused(tmp_path: Path, pipeline: Path) -> None:
    with pytest.raises(
        InputError, match=r"class UNet2DModel is unknown; known are SmallClassifier, PlaceClassifier, D"
    ):
        load_extractor(str(pipeline / "unet"))
    with pytest.raises(InputError, match=r"no \S*config\.json; give a folder such as"):
        load_extractor(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"config\.json: lacks 'source'"):
        load_extractor(write_config(tmp_path, _class_name="DINOv2"))
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_extractor(write_config(tmp_path, _class_name="SmallClassifier", channels=1, width=8, classes=10))


def test_weights_of_another_classifier_are_refused(tmp_path: Path, extractor_dir: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((extractor_dir / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="different architectures"):
        load_extractor(write_config(tmp_path, _class_name="SmallClassifier", channels=3, width=8, classes=10))
    with pytest.raises(InputError, match="different architectures"):
        load_extractor(write_config(tmp_path, _class_name="SmallClassifier", channels=1, width=8, classes=10, blocks=2))
