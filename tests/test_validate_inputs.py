"""What validate says of prompts and extractors that a run could not use, before the run."""

import json
from pathlib import Path

import pytest
from composing import composed, refusal, validate

JUDGES_16 = "zoo/judges/fashion-mnist-16/final"
CODE_32 = "zoo/judges/digits-32/development/code"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("prompts.free.source=fiel",), "params: prompts.free.source = 'fiel': known are coco, imagenet, parti, file"),
        (("prompts.free.path=nowhere.txt",), "params: prompts.free.path = 'nowhere.txt': no such file or folder"),
        (("prompts.free.path=prompts",), "prompts: no such file; prompts, one a line, are expected there"),
        (("prompts.free.source=coco",), "prompts/digits-free.txt: not a captions JSON of COCO"),
        (("+prompts.free.count=1000",), "params: prompts.free.count = 1000: prompts/digits-free.txt holds "),
        (("prompts.captions.path=data/pictures",), "data/pictures: no held-out images; give the output of the stage"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_before_the_run(
    overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed("experiment=digits_t2i", *overrides, monkeypatch=monkeypatch)
    assert refusal(params, tmp_path, monkeypatch).startswith(f"error: {message}")


def test_prompts_of_held_out_captions_are_refused_of_images_without_captions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed("+prompts.own={source: heldout, path: data/images}", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"prompts\.own\.source = 'heldout': the run's images have no captions; name"):
        validate(params, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (f"judges.folder={JUDGES_16}",),
            f"judges.folder = '{JUDGES_16}/code': is for images of 1 × 16 × 16 (channels, height, width), and"
            " these have 1 × 8 × 8; name one",
        ),
        ((f"reference.extractor={CODE_32}",), f"reference.extractor = '{CODE_32}': is for images of 1 × 32 × 32 "),
        ((f"merge_search.extractors=[{CODE_32}]",), f"merge_search.extractors = '{CODE_32}': is for images of 1 × 32"),
        (
            ("experiment=digits_t2i", "+prompts.classes.size=16", f"reference.extractor={CODE_32}"),
            f"reference.extractor = '{CODE_32}': is for images of 1 × 32 × 32 (channels, height, width), and these have"
            " 1 × 16 × 16, by prompts.classes.size; name one",
        ),
        (("experiment=digits_t2i", "+prompts.free.size=16", f"reference.extractor={CODE_32}"), None),  # no distance
    ],
)
def test_an_extractor_of_other_images_is_refused_before_the_run(
    overrides: tuple[str, ...], message: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed(*overrides, monkeypatch=monkeypatch)
    if message is None:
        assert validate(params, tmp_path, monkeypatch)
        return
    assert refusal(params, tmp_path, monkeypatch).startswith(f"error: params: {message}")


def test_an_extractor_of_other_channels_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "colour").mkdir()
    config = {"_class_name": "SmallClassifier", "channels": 3, "width": 64, "classes": 10}
    (tmp_path / "colour" / "config.json").write_text(json.dumps(config))
    params = composed(f"reference.extractor={tmp_path}/colour", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"colour': is for images of 3 \(channels, .*, and these have 1 × 8"):
        validate(params, tmp_path, monkeypatch)
