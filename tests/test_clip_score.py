"""CLIP score: its arithmetic on a stand-in, its loading on a tiny model in open_clip's format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_stand_in import ANGLES, Compass, images
from conftest import REPOSITORY

from deme_core.data.digit_captions import WORDS
from deme_core.data.images import DataParams
from deme_core.data.sources import read_parts
from deme_core.errors import InputError
from deme_core.metrics.clip_score import ClipScore, ClipScoreParams
from deme_core.metrics.features import load_extractor
from deme_core.metrics.open_clip_models import CONFIG, WEIGHTS, load_open_clip
from deme_core.params import read
from deme_core.tensors import read_recipe, read_tensors, write_tensors


def test_a_score_is_100_times_the_cosine_and_never_below_0() -> None:
    score = ClipScore(Compass([]), "compass")
    found = score([images(0, 60, 90), images(180)], ["right", "right", "right", "right"])
    assert found == pytest.approx([100, 50, 0, 0], abs=1e-4)
    assert (found >= 0).all()
    assert score.name == "compass-01234567"


def test_each_image_has_its_own_text_and_each_text_is_read_once() -> None:
    compass = Compass([])
    found = ClipScore(compass, "compass")([images(0, 90, 180, 90)], ["right", "up", "left", "right"])
    assert found == pytest.approx([100, 100, 100, 0], abs=1e-4)
    assert compass.asked == [["right", "up", "left"]]


def test_images_and_texts_must_be_as_many() -> None:
    with pytest.raises(InputError, match="2 images but 1 texts; each image is scored against its own text"):
        ClipScore(Compass([]), "compass")([images(0, 90)], ["right"])


def test_features_that_are_not_finite_have_no_score() -> None:
    ANGLES["nowhere"] = float("nan")
    try:
        with pytest.raises(InputError, match="CLIP model compass: 1 of 2 texts have features that are not finite; its"):
            ClipScore(Compass([]), "compass")([images(0, 90, 0)], ["nowhere", "up", "nowhere"])
    finally:
        del ANGLES["nowhere"]


# Through open_clip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model with random weights, in open_clip's format and with its own tokenizer."""
    open_clip = pytest.importorskip(
        "open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception
    )
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 4, "heads": 1, "layers": 1},
    }
    folder = tmp_path / "model"
    torch.manual_seed(0)
    write_tensors(folder / WEIGHTS, open_clip.CLIP(**config).state_dict())
    preprocessing = {"mean": [0.4] * 3, "std": [0.2] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    return folder


def change(folder: Path, *keys: str, to: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    (folder / CONFIG).write_text(json.dumps(config))


def test_scores_are_those_of_open_clip_itself(model: Path) -> None:
    import open_clip

    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts = ["a cat", "a dog", "a cat"]
    score = ClipScore.of(ClipScoreParams(model=str(model), pretrained=None))
    plain = open_clip.create_model(f"local-dir:{model}").eval()
    with torch.no_grad():
        a = plain.encode_image((pixels / 255 - 0.4) / 0.2, normalize=True)
        b = plain.encode_text(open_clip.tokenize(texts, context_length=8), normalize=True)
    found = score([pixels], texts)
    np.testing.assert_allclose(found, 100 * (a * b).sum(1).clamp(min=0).numpy(), atol=1e-3)
    assert found.any()
    change(model, "preprocess_cfg", "mean", to=[0.0] * 3)  # the preprocessing comes from the folder
    other = ClipScore.of(ClipScoreParams(model=str(model), pretrained=None))
    assert not np.allclose(other([pixels], texts), found, atol=1e-2)


def test_scores_do_not_depend_on_the_number_of_cores() -> None:
    """The last block, of ten images, is one whose features do where operations are what cores share."""
    pytest.importorskip("open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception)
    score = ClipScore.of(ClipScoreParams(model=str(REPOSITORY / "zoo" / "digits-clip"), pretrained=None))
    pixels = torch.randint(0, 256, (60, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts, found = [f"the digit {WORDS[k % 10]}" for k in range(60)], []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append((score(pixels.split(7), texts), score.extractor([pixels])))
    for scores, features in found[1:]:
        assert np.array_equal(scores, found[0][0])
        assert np.array_equal(features, found[0][1])


def test_long_texts_are_cut_and_counted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = load_open_clip(str(model))
    features = clip.text_features(["a b c d e f", "a b c d e f g h i", "a b c d e f x y z"])
    assert "2 of 3 texts are longer than its 8 tokens, and are cut there" in capsys.readouterr().out
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model_cfg", "embed_dim"), 16),
        (("model_cfg", "vision_cfg", "layers"), 2),
        (("model_cfg", "vision_cfg", "image_size"), 64),  # open_clip would interpolate without a word
        (("model_cfg", "vision_cfg", "colour"), "red"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(model: Path, keys: tuple[str, ...], value: object) -> None:
    change(model, *keys, to=value)
    with pytest.raises(InputError, match=rf"{WEIGHTS} does not fit \S+{CONFIG} \(.+\); take both from one") as error:
        load_open_clip(str(model))
    assert "\n" not in str(error.value)


def test_a_broken_weights_file_is_refused(model: Path) -> None:
    state_dict = read_tensors(model / WEIGHTS)
    del state_dict["visual.proj"]
    write_tensors(model / WEIGHTS, state_dict)
    with pytest.raises(InputError, match=rf"{WEIGHTS} does not fit .*visual\.proj"):
        load_open_clip(str(model))
    (model / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=rf"{WEIGHTS} does not fit"):
        load_open_clip(str(model))


def test_a_config_without_preprocessing_is_refused(model: Path) -> None:
    config = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps({"model_cfg": config["model_cfg"]}))
    with pytest.raises(InputError, match=rf"{CONFIG}: lacks 'preprocess_cfg'"):
        load_open_clip(str(model))
    (model / CONFIG).write_text("[]")
    with pytest.raises(InputError, match=rf"{CONFIG}: holds no JSON object"):
        load_open_clip(str(model))


def test_what_is_missing_is_named(model: Path) -> None:
    change(model, "model_cfg", "text_cfg", "hf_tokenizer_name", to="own")
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file; the model's folder must hold"):
        load_open_clip(str(model))
    (model / WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"{WEIGHTS}: no such file; the model's folder must hold {CONFIG}, "):
        load_open_clip(str(model))


def test_a_name_and_a_tag_mean_a_repository_on_the_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, **_: object) -> str:
        asked.append(name)
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert ClipScore.of(ClipScoreParams()).name.startswith("ViT-g-14/laion2b_s12b_b42k-")
    assert asked == ["laion/CLIP-ViT-g-14-laion2B-s12B-b42K"]
    with pytest.raises(InputError, match="'ViT-g-14': no weights tagged 'mine' on the hub; tags are laion2b_s12b_b42k"):
        load_open_clip("ViT-g-14", "mine")
    with pytest.raises(InputError, match="'ViT-q': open_clip knows no weights for such a name"):
        load_open_clip("ViT-q", "openai")


# The zoo's model


def test_the_zoos_model_scores_a_digit_and_gives_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception)
    monkeypatch.chdir(REPOSITORY)  # its config.json names the folder
    parts = read_parts(DataParams(source="digits_t2i", path=None, size=32, held_out=0.2))
    pixels = parts["heldout"].pixels[:50]
    score = ClipScore.of(ClipScoreParams(model="zoo/digits-clip", pretrained=None))
    asked = [f"a drawing of a {WORDS[k]}, perhaps" for k in parts["heldout"].labels[:50].tolist()]
    right, wrong = score([pixels], asked), score([pixels], asked[1:] + asked[:1])
    assert right.mean() > 60
    assert wrong.mean() < 30
    assert load_extractor("zoo/digits-clip")([pixels]).shape == (50, 64)


def test_the_zoos_model_is_small_and_reads_its_recipe() -> None:
    folder = REPOSITORY / "zoo" / "digits-clip"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    quality = json.loads((folder / "quality.json").read_text())
    assert quality["label_heldout"] >= 0.97
    assert read_recipe(folder / WEIGHTS)["training"] == read(folder / "recipe.yaml")["training"]
