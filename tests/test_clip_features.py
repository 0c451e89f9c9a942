"""The extractor CLIP, through a small network in open_clip's format."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_extractors import pictures, write_clip, write_config

from deme_core.errors import InputError
from deme_core.metrics.features import load_extractor


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
