"""The stage validate: every preset passes, and what cannot work ends in one line."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import Example, composed, refusal, validate
from conftest import ARCHITECTURE, REPOSITORY, stage, training_params, write_pipeline
from dag_runs import make_what_is_named

from deme_core.dag import dag
from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.inputs import inputs
from deme_core.params import section

PRESETS = sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("baselines", ["none", "core", "all"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_with_the_keys_of_the_default_and_passes_validation(
    preset: str, baselines: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed(f"experiment={preset}", f"baselines={baselines}", monkeypatch=monkeypatch)
    assert set(params) == set(composed(monkeypatch=monkeypatch))
    assert params["name"] == preset
    make_what_is_named(params, tmp_path)
    assert validate(params, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("directions=[range,early]",), "params: early.source = None: the direction early needs the folder of"),
        (("directions=[range,early]", "early.source=owner/name"), "params: early.source = 'owner/name': the direction"),
        (
            ("directions=[range,early]", f"early.source={REPOSITORY}/zoo/fashion-mnist-16-ddpm"),
            f"{REPOSITORY}/zoo/fashion-mnist-16-ddpm/unet and {REPOSITORY}/zoo/digits-ddpm/unet are different",
        ),
    ],
)
def test_validate_refuses_an_earlier_checkpoint_that_is_none_in_one_line(
    overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = f"pretrain_load.source={REPOSITORY}/zoo/digits-ddpm"
    said = refusal(composed(base, *overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    assert said.startswith(f"error: {message}")


def test_flips_of_latents_that_are_not_encoded_are_refused_before_anything_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = r"^error: params: finetune_range\.horizontal_flip = True: the latents would .*; set encode\.flips=true$"
    asked = ("experiment=digits_t2i", "finetune_range.horizontal_flip=true", "encode.flips=false")
    with pytest.raises(SystemExit, match=message):
        validate(composed(*asked, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    params = composed(*asked[:2], monkeypatch=monkeypatch)  # encode.flips follows it
    assert validate(params, tmp_path, monkeypatch)
    (tmp_path / "params.yaml").write_text(json.dumps(params | {"encode": {"flips": False}}))
    pixels = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    save_part(tmp_path / "images", "train", Images(pixels, torch.zeros(2, dtype=torch.long), (("one",), ("two",))))
    with pytest.raises(SystemExit, match=message):  # of a model on the hub the stage validate sees nothing
        stage("pretrain_load", "--data", "images", "--out", "base", monkeypatch=monkeypatch)


def test_validate_refuses_to_scale_what_does_not_predict_the_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for kind in ("epsilon", "v_prediction"):
        write_pipeline(tmp_path / kind, prediction_type=kind)
    scale = ("directions=[range,scale]", "baselines=none")
    assert validate(
        composed(*scale, f"pretrain_load.source={tmp_path}/epsilon", monkeypatch=monkeypatch), tmp_path, monkeypatch
    )
    with pytest.raises(SystemExit, match="directions: scale: the base predicts 'v_prediction', and only"):
        validate(
            composed(*scale, f"pretrain_load.source={tmp_path}/v_prediction", monkeypatch=monkeypatch), tmp_path,
            monkeypatch,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "spacing", "refused"),
    [("local", "trailing", True), ("train", "trailing", True), ("local", "uniform", False)],
)
def test_validate_refuses_a_sampler_that_the_model_cannot_have(
    source: str, spacing: str, refused: bool, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Zero terminal SNR with ε-prediction: it came out after hours of training, or as black images."""
    schedule = {"rescale_betas_zero_snr": True, "clip_sample": False}
    params = composed(f"sampler.spacing={spacing}", monkeypatch=monkeypatch)
    if source == "train":
        training = asdict(training_params(consistency=0.0, projection="none"))
        train = {"architecture": ARCHITECTURE, "noise_schedule": schedule, "training": training}
        params["pretrain_load"] = {"source": "train", "revision": None, "train": train}
    else:
        params["pretrain_load"]["source"] = str(write_pipeline(tmp_path / "model", **schedule))
    params["inputs"] = inputs(params)
    if not refused:
        assert validate(params, tmp_path, monkeypatch)
        return
    message = "params: sampler dpm_solver with trailing spacing starts at t = 999"
    with pytest.raises(SystemExit, match=message):
        validate(params, tmp_path, monkeypatch)
    if source == "local":  # a model on the hub is first seen when it has been fetched
        save_part(tmp_path / "images", "train", Images(digits, torch.zeros(len(digits), dtype=torch.int64)))
        with pytest.raises(SystemExit, match=message):
            stage("pretrain_load", "--data", tmp_path / "images", "--out", tmp_path / "out", monkeypatch=monkeypatch)


@pytest.mark.parametrize(("images", "warned"), [(240, True), (300, False)])
def test_validate_warns_of_images_too_few_for_an_interval_and_goes_on(
    images: int, warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "extractor").mkdir()
    config = {"_class_name": "SmallClassifier", "channels": 1, "width": 64, "classes": 10}
    (tmp_path / "extractor" / "config.json").write_text(json.dumps(config))
    overrides = (f"sample.images={images}", "evaluate.blocks=6", f"reference.extractor={tmp_path}/extractor")
    assert validate(composed(*overrides, monkeypatch=monkeypatch), tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert ("warning: Fréchet distances get no corrected value" in said) == warned
    assert ("240 images are fewer than 4 for each of 64 features; set sample.images to 300" in said) == warned


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"N": 8}, "N = 8, baselines = []"),
        ({"baselines": ["full_range"]}, "N = 4, baselines = ['full_range']"),
        ({"dag": dag(2, [])}, "N = 4, baselines = []"),
        ({"dag": dag(4, ["min_snr"])}, "N = 4, baselines = []"),
        ({"dag": None}, "N = 4, baselines = []"),
    ],
)
def test_validate_refuses_a_dag_of_other_params_in_one_line(
    change: dict[str, Any], now: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        validate(composed("N=4", monkeypatch=monkeypatch) | change, tmp_path, monkeypatch)
    assert stopped.value.code == (
        f"error: params: dag is not that of {now}, random_draws = 1, directions = ['range', 'self']; it is derived: set"
        " these with `dvc exp run -S N=… -S baselines=…`, which composes params.yaml anew"
    )
    assert not (tmp_path / "checked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "none"}, "merge_search.method = 'none': must be one of auto, grid, coordinate, "),
        ({"method": "grid"}, "merge_search.budget = 30000: the grid over 4 weights has 257 points of 1500 images each"),
        ({"fixed": [None, 0.0]}, "merge_search.fixed = [None, 0.0]: needs N = 4 entries"),
        ({"budget": 1}, "merge_search.budget = 1: must be at least 2 × images = 3000"),
        ({"per_block": True}, "merge_search.method = 'auto': too many points for the weights of every block"),
        ({"towards_shared": -1.0}, "merge_search.towards_shared = -1.0: must be a finite number, not negative"),
        (
            {"extractors": ["zoo/judges/digits/final/code"]},
            "merge_search.extractors: 'zoo/judges/digits/final/code' is",
        ),
        ({"prompts": ["classes"]}, "merge_search.prompts = ['classes']: only images of a text-to-image pipeline"),
    ],
)
def test_validate_refuses_a_search_that_cannot_be_made(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed("N=4", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=re.escape(f"error: params: {message}")):
        validate(params | {"merge_search": params["merge_search"] | change}, tmp_path, monkeypatch)
    assert not (tmp_path / "checked").exists()


def test_validate_refuses_baselines_of_infinite_weights_on_the_base_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = write_pipeline(tmp_path / "base", rescale_betas_zero_snr=True)
    for baselines, refused in (("core", False), ("all", True)):
        params = composed(f"baselines={baselines}", f"pretrain_load.source={base}", monkeypatch=monkeypatch)
        if refused:
            with pytest.raises(SystemExit, match=r"baseline \w+: its weight on the noise loss is infinite at t = 999"):
                validate(params, tmp_path, monkeypatch)
        else:
            assert validate(params, tmp_path, monkeypatch)
            (tmp_path / "checked").unlink()
    assert not (tmp_path / "checked").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("analyse.plane=['expert 1','expert 9']",),
            "will have no task vector 'expert 9', did you mean expert ",
        ),
        (("analyse.plane=['expert 1','min_snr']",), "no task vector 'min_snr'; name two of expert 1, expert 2, "),
        (("analyse.plane=['expert 1','own samples']", "own_samples.ranges=2"), "did you mean own samples "),
        (("analyse.plane=['own samples','random1 4']",), None),
        (("analyse.plane=['full_range','soup_full_range 4']", "baselines=core"), None),
        (("analyse.plane=['expert 1','expert 9']", "analyses=[vectors]"), None),  # which read no plane
    ],
)
def test_validate_refuses_a_plane_of_vectors_that_the_run_will_not_have(
    overrides: tuple[str, ...], message: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = composed("N=4", "analyses=[landscape]", *overrides, monkeypatch=monkeypatch)
    if message is None:
        assert validate(params, tmp_path, monkeypatch)
        return
    said = refusal(params, tmp_path, monkeypatch)
    assert said.startswith("error: params: analyse.plane = [") and message in said


def test_validate_counts_the_weights_of_a_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    params = composed("merge.method=per_block", "+merge.blocks.mid_block=[0,1]", monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"merge\.blocks\.mid_block = \[0, 1\]: must be N = 4 numbers"):
        validate(params, tmp_path, monkeypatch)


def test_validate_knows_the_dag_but_no_longer_the_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"params: ranges = '…': unknown key; valid keys are .*baselines.*, dag, inputs$"
    ):
        validate(composed(monkeypatch=monkeypatch) | {"ranges": [1, 2, 3, 4]}, tmp_path, monkeypatch)


def test_the_error_about_a_missing_key_points_to_a_file_that_exists() -> None:
    with pytest.raises(InputError) as error:
        section({"example": {}}, "example", Example)
    assert (REPOSITORY / str(error.value).split("; ")[1].split()[0]).is_file()
