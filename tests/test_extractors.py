"""Extractors of every kind: who prepares the images, the table of kinds, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from saved_extractors import inception, pictures, write_clip, write_config, write_dinov2, write_stub

from deme_core.errors import InputError
from deme_core.metrics.extractor import Extractor
from deme_core.metrics.features import EXTRACTORS, feature_count, load_extractor, read_config
from deme_core.metrics.inception import BLOCK, RESIZING

# The share of the CPU


@pytest.mark.parametrize("kind", [*RESIZING, "DINOv2", "CLIP", "SmallClassifier"])
def test_features_do_not_depend_on_who_prepares_the_images(
    tmp_path: Path, kind: str, rgb_extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the number of workers, and not on whether these prepare a few images each for a network on a GPU."""
    if kind in RESIZING:
        pytest.importorskip("cleanfid")
        write_stub(tmp_path, monkeypatch)
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
