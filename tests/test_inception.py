"""The extractor Inception, through a small network in its format: its features are those of clean-fid."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from saved_extractors import inception, pictures, write_stub
from torch import nn

from deme_core.errors import InputError
from deme_core.metrics.features import load_extractor
from deme_core.metrics.inception import BLOCK, FILE, RESIZING


@pytest.mark.parametrize("resize", RESIZING)
def test_inception_features_are_those_of_clean_fids_folder_path(
    tmp_path: Path, resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its resizer on each image, its wrapper of the network: what `get_folder_features` computes from PNGs."""
    pytest.importorskip("cleanfid")
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    write_stub(tmp_path, monkeypatch)
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


def test_inception_features_are_those_of_get_folder_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        from cleanfid.fid import get_folder_features
    except Exception as error:
        pytest.skip(f"clean-fid's folder path needs a torchvision that matches torch: {error}")
    from cleanfid.inception_torchscript import InceptionV3W

    write_stub(tmp_path / "model", monkeypatch)
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


def test_features_do_not_depend_on_how_the_stream_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path, monkeypatch)
    extractor, images = load_extractor(inception(tmp_path)), pictures(BLOCK + 10)
    assert np.array_equal(extractor([images]), extractor(images.split(7)))


def test_grey_images_are_seen_as_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path, monkeypatch)
    extractor, grey = load_extractor(inception(tmp_path)), pictures(channels=1)
    assert np.array_equal(extractor([grey]), extractor([grey.repeat(1, 3, 1, 1)]))


def test_the_hash_tells_weights_and_resizing_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cleanfid")
    write_stub(tmp_path, monkeypatch)
    hashes = {load_extractor(inception(tmp_path, resize)).sha256 for resize in RESIZING}
    assert len(hashes) == 3
    assert load_extractor(inception(tmp_path)).sha256 in hashes
    write_stub(tmp_path, monkeypatch, seed=1)
    assert load_extractor(inception(tmp_path)).sha256 not in hashes


def test_missing_weights_are_downloaded_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cleanfid")
    published = write_stub(tmp_path / "web", monkeypatch)
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


class Program(nn.Module):
    """Says so when it is loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        print("it ran")
        self.training = state[1]


@pytest.mark.parametrize("content", [b"", b"no torchscript", "a program"])
def test_another_file_than_the_published_one_is_refused_before_it_runs(
    tmp_path: Path, content: bytes | str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cleanfid")
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    else:
        torch.jit.script(Program()).save(str(tmp_path / FILE))
        torch.jit.load(tmp_path / FILE)
        assert capfd.readouterr().out == "it ran\n"
    with pytest.raises(InputError, match=rf"{FILE}: SHA-256 \w+ is not that of the published .* again$") as error:
        load_extractor(inception(tmp_path))
    assert "\n" not in str(error.value) and capfd.readouterr().out == ""


def test_an_unknown_resizing_and_another_file_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resize = 'bicubic' is unknown; known are clean, legacy_pytorch, legacy_tens"):
        load_extractor(inception(tmp_path, "bicubic"))
    with pytest.raises(InputError, match=rf"weights = 'x/other\.pt': the file must be named {FILE}"):
        load_extractor(inception(tmp_path, weights="x/other.pt"))


def test_without_clean_fid_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanfid.resize", None)
    with pytest.raises(InputError, match=r"needs the package clean-fid .*: pip install 'deme\[real-images\]'"):
        load_extractor(inception(tmp_path))
