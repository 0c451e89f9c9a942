"""The extractor DINOv2, through a small network in its format: features, preprocessing, the hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_extractors import pictures, write_config, write_dinov2

from deme_core.errors import InputError
from deme_core.metrics.features import load_extractor


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
