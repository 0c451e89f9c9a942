"""What a run needs: every artefact is there, or missing with its remedy."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY, never
from hub_files import offline_hub
from needed import data, of_source, one, pretrain
from saved_extractors import write_config

from deme_core.data.sources import SOURCES, Source, read_digits
from deme_core.metrics.clip_score import ClipScoreParams
from deme_core.metrics.features import EXTRACTORS, FeatureParams, Kind
from deme_core.metrics.open_clip_models import CONFIG, TOKENIZER, WEIGHTS
from deme_core.preflight.artefacts import Artefact, artefacts, measure_artefacts, model_folder, tracker_artefacts
from deme_core.prompts.settings import PromptParams

BY = ("zoo/x", 8)  # extractor and size
CLIP_FILES = {CONFIG: '{"model_cfg": {}}', WEIGHTS: ""}
OTHER_TEXTS = {CONFIG: '{"model_cfg": {"text_cfg": {"hf_tokenizer_name": "x"}}}', WEIGHTS: ""}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    return offline_hub(monkeypatch)


def test_a_source_or_an_extractor_that_is_entered_once_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Source(read=read_digits, put="put mine there", packages=(("mine", "no_module_of_mine"),))
    monkeypatch.setitem(SOURCES, "mine", mine)
    kind = Kind(never, {"side": int}, lambda config: None, ("{folder}/{side}.bin", "make {side} of {folder}"))
    monkeypatch.setitem(EXTRACTORS, "Mine", kind)
    (tmp_path / "config.json").write_text('{"_class_name": "Mine", "side": 3}')
    found = artefacts(data("mine", tmp_path / "x"), pretrain("x/y"), FeatureParams(extractor=str(tmp_path)))[1:]
    assert [(one.kind, one.name, one.path, one.remedy) for one in found] == [
        ("data", str(tmp_path / "x"), None, "put mine there"),
        ("package", "mine", None, "pip install 'deme[real-images]'"),
        ("extractor", f"{tmp_path}/3.bin", None, f"make 3 of {tmp_path}"),
    ]


@pytest.mark.parametrize("source", ["idx", "folder", "zip", "parquet"])
def test_data_on_disk_are_there_with_their_size_or_missing_with_their_place(tmp_path: Path, source: str) -> None:
    missing = of_source(data(source, tmp_path / "nothing"), tmp_path)[0]
    assert (missing.path, missing.size) == (None, None)
    assert "there" in missing.remedy
    path = tmp_path / "there"
    if source in ("idx", "folder"):
        path.mkdir()
        (path / "file").write_bytes(b"12345")
    else:
        path.write_bytes(b"12345")
    found = of_source(data(source, path), tmp_path)[0]
    assert (found.path, found.size) == (path, 5)


def test_a_hub_data_set_is_there_when_it_is_in_the_cache(tmp_path: Path, hub: dict[str, Path]) -> None:
    params = replace(data("hub", "owner/images"), revision="abc")
    missing = one(of_source(params, tmp_path), "data")
    assert (missing.path, missing.remedy) == (None, "hf download --repo-type dataset owner/images --revision abc")
    hub["owner/images"] = tmp_path
    (tmp_path / "images.parquet").touch()
    assert one(of_source(params, tmp_path), "data").path == tmp_path
    streamed = one(of_source(replace(params, path="owner/others", stream=5), tmp_path), "data")
    assert streamed.path is not None and "first 5 images, which the stage data downloads" in streamed.name


def test_a_model_may_be_a_folder_or_in_the_cache(tmp_path: Path, pipeline: Path, hub: dict[str, Path]) -> None:
    assert model_folder(pretrain(pipeline)) == pipeline
    assert model_folder(pretrain("owner/name")) is None
    hub["owner/name"] = pipeline
    assert model_folder(pretrain("owner/name")) == pipeline
    assert model_folder(pretrain("owner/name/unet")) == pipeline / "unet"
    hub["owner/half"] = tmp_path
    assert model_folder(pretrain("owner/half")) is None
    for malformed in ("nothing", "a/b/c/d", "..", ""):
        assert model_folder(pretrain(malformed)) is None


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("owner/name", "hf download owner/name --revision main"),
        ("owner/name/unet_ema", "hf download owner/name --revision main"),
    ],
)
def test_a_missing_model_says_how_to_get_it(source: str, remedy: str, extractor_dir: Path) -> None:
    found = artefacts(data("digits"), pretrain(source, "main"), FeatureParams(extractor=str(extractor_dir)))
    assert one(found, "model").remedy == f"put the pipeline there, or {remedy}"
    assert one(found, "extractor").size


@pytest.mark.parametrize("source", ["./model", "my models/base", "/home/me/my model", "~/model", "model"])
def test_what_is_no_hub_id_is_not_fetched_from_it(
    source: str, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    remedy = one(
        artefacts(data("digits"), pretrain(source), FeatureParams(extractor=str(extractor_dir))), "model"
    ).remedy
    assert remedy == "put the pipeline there"
    assert "hf download" not in remedy
    clip = {"x": PromptParams(source="file", path="x.txt")}, ClipScoreParams(model=source, pretrained=None)
    assert "hf download" not in one(measure_artefacts(*clip, *BY), "CLIP").remedy


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_is_broken_says_how(
    cached: bool, pipeline_copy: Path, extractor_dir: Path, hub: dict[str, Path]
) -> None:
    (pipeline_copy / "unet" / "config.json").write_text('{"sample_size": 8')
    hub["owner/name"] = pipeline_copy
    params = pretrain("owner/name" if cached else pipeline_copy)
    found = one(artefacts(data("digits"), params, FeatureParams(extractor=str(extractor_dir))), "model")
    assert found.path is None
    assert found.remedy.startswith(f"{pipeline_copy / 'unet' / 'config.json'}: no valid JSON")


def test_a_model_of_the_zoo_that_is_not_trained_names_its_training(tmp_path: Path, extractor_dir: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("network: {}")
    found = artefacts(data("digits"), pretrain(tmp_path), FeatureParams(extractor=str(extractor_dir)))
    assert one(found, "model").path is None
    assert one(found, "model").remedy == f"python zoo/train_ddpm.py {tmp_path}"
    found = artefacts(data("digits"), pretrain(tmp_path), FeatureParams(extractor=str(tmp_path)))
    assert one(found, "extractor").remedy == f"python zoo/train_features.py {tmp_path}"
    (tmp_path / "recipe.yaml").write_text("train: {}")
    found = artefacts(data("digits"), pretrain(tmp_path), FeatureParams(extractor=str(tmp_path)))
    assert "give a folder such as zoo/digits-features" in one(found, "extractor").remedy


def test_extractors_name_their_weights_and_packages(monkeypatch: pytest.MonkeyPatch, hub: dict[str, Path]) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = {name: artefacts(data("digits"), pretrain("x/y"), FeatureParams(extractor=f"zoo/{name}"))[2:]
             for name in ("inception-clean", "dinov2-large", "clip-vit-b-32", "nothing")}  # fmt: skip
    assert [artefact.name for artefact in found["inception-clean"]] == ["weights/inception-2015-12-05.pt", "clean-fid"]
    assert [artefact.remedy for artefact in found["dinov2-large"]] == ["hf download facebook/dinov2-large"]
    assert [artefact.name for artefact in found["clip-vit-b-32"]][1:] == ["open_clip_torch", "torchvision"]
    assert "no zoo/nothing/config.json" in found["nothing"][0].remedy


def test_a_file_of_statistics_is_an_artefact(tmp_path: Path, extractor_dir: Path) -> None:
    params = FeatureParams(extractor=str(extractor_dir), statistics=str(tmp_path / "x.npz"))
    assert one(artefacts(data("digits"), pretrain("x/y"), params), "reference").path is None
    (tmp_path / "x.npz").touch()
    assert one(artefacts(data("digits"), pretrain("x/y"), params), "reference").path


def test_prompt_sets_need_real_images_and_a_clip_model(
    tmp_path: Path, hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {
        "coco": PromptParams(source="coco", path=str(tmp_path / "captions.json"), reference=str(tmp_path / "coco.x")),
        "own": PromptParams(source="heldout", path="data/images", reference="data/reference/heldout.safetensors"),
    }
    for name, content in CLIP_FILES.items():
        (tmp_path / name).write_text(content)
    folder = ClipScoreParams(model=str(tmp_path), pretrained=None)
    found = measure_artefacts(sets, folder, *BY)
    assert one(found, "reference").remedy == (
        f"deme features --images DIR --size 8 --extractor zoo/x --out {tmp_path / 'coco.x'}, DIR of its real images"
    )
    assert one(found, "CLIP").path == tmp_path
    repository = ClipScoreParams(model="owner/clip", pretrained=None, revision="abc")
    assert one(measure_artefacts(sets, repository, *BY), "CLIP").remedy == "hf download owner/clip --revision abc"
    hub["owner/clip"] = tmp_path
    assert one(measure_artefacts(sets, repository, *BY), "CLIP").path == tmp_path
    assert measure_artefacts({}, ClipScoreParams(), *BY) == []
    monkeypatch.setattr("deme_core.preflight.artefacts.find_spec", lambda _: None)
    assert one(measure_artefacts(sets, ClipScoreParams(), *BY), "CLIP").name == "ViT-g-14/laion2b_s12b_b42k"


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("CLIP", CLIP_FILES),
        ("CLIP", OTHER_TEXTS | dict.fromkeys(TOKENIZER, "")),
        ("DINOv2", dict.fromkeys(("config.json", "model.safetensors", "preprocessor_config.json"), "")),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_a_published_model_that_lacks_a_file_of_its_own_is_missing(
    kind: str, files: dict[str, str], cached: bool, tmp_path: Path, hub: dict[str, Path]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    hub["owner/model"] = model
    source = "owner/model" if cached else str(model)
    extractor = write_config(tmp_path / "extractor", _class_name=kind, source=source, revision="abc")
    sets = {"x": PromptParams(source="file", path="x.txt")}
    clip = ClipScoreParams(model=source, pretrained=None, revision="abc")

    def seen() -> list[Artefact]:
        found = artefacts(data("digits"), pretrain("x/y"), FeatureParams(extractor=extractor))
        return [one(found, "extractor"), *([one(measure_artefacts(sets, clip, *BY), "CLIP")] if kind == "CLIP" else [])]

    for name, content in files.items():
        (model / name).write_text(content)
    assert {artefact.path for artefact in seen()} == {model}
    remedy = "hf download owner/model --revision abc" if cached else "put the folder of the model there"
    for name in files:
        (model / name).rename(tmp_path / "aside")
        assert {(artefact.path, artefact.remedy) for artefact in seen()} == {(None, f"{model} lacks {name}; {remedy}")}
        (tmp_path / "aside").rename(model / name)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_curves_are_sent_to_needs_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deme_core.preflight.artefacts.find_spec", lambda _: None)
    (found,) = tracker_artefacts(name)
    assert (found.kind, found.name, found.path, found.remedy) == ("package", name, None, "pip install 'deme[trackers]'")
    assert tracker_artefacts(None) == []


def test_files_of_prompts_are_artefacts(tmp_path: Path, extractor_dir: Path) -> None:
    sets = {
        "own": PromptParams(source="file", path=str(tmp_path / "x.txt")),
        "captions": PromptParams(source="heldout", path="data/images"),
    }
    given = data("digits"), pretrain("x/y"), FeatureParams(extractor=str(extractor_dir)), sets
    assert "prompts.own" in one(artefacts(*given), "prompts").remedy
    (tmp_path / "x.txt").touch()
    assert one(artefacts(*given), "prompts").path


@pytest.mark.parametrize(("name", "script"), [("digits-ddpm", "train_ddpm.py"), ("digits-sd", "train_sd.py")])
def test_a_recipe_names_the_script_that_reads_it(
    name: str, script: str, tmp_path: Path, extractor_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo" / name).mkdir(parents=True)
    shutil.copy(REPOSITORY / "zoo" / name / "recipe.yaml", tmp_path / "zoo" / name)
    monkeypatch.chdir(tmp_path)
    features = FeatureParams(extractor=str(extractor_dir))
    assert one(artefacts(data("digits"), pretrain(f"zoo/{name}"), features), "model").remedy == (
        f"python zoo/{script} zoo/{name}"
    )
