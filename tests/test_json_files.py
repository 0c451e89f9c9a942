"""JSON that a user brings: whatever is wrong with it ends in one line that names the file, whoever reads it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_pipeline
from diffusers import UNet2DModel
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import (
    WEIGHTS,
    class_to_load,
    copy_pipeline,
    denoiser_dir,
    denoiser_shape,
    load_denoiser,
    load_noise_schedule,
    train_timesteps,
    verify_pipeline,
    weights_file,
)
from deme_core.components import Autoencoder, TextEncoder, blank_condition, pixel_shape
from deme_core.errors import InputError
from deme_core.hub_layouts import find_layout, import_pipeline, local_pipeline, source_schedule
from deme_core.json_files import read_json
from deme_core.merging.replay import read_merge
from deme_core.metrics.features import load_extractor, read_config
from deme_core.metrics.networks import SmallClassifier
from deme_core.metrics.open_clip_models import CONFIG, load_open_clip
from deme_core.metrics.open_clip_models import WEIGHTS as CLIP_WEIGHTS
from deme_core.tensors import map_tensors, read_tensors, weights_hash, write_tensors

CPU = torch.device("cpu")
BROKEN = {
    "cut short": b'{"a": 1, "b', "empty": b"", "a list": b"[1, 2]", "a number": b"5", "null": b"null",
    "no text": b"\xff\xfe\x00{", "too deep": b"[" * 100_000, "text": b'"config"',
}  # fmt: skip
INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
Reader = Callable[[Path], object]
READERS: dict[str, tuple[str, list[Reader]]] = {
    INDEX: (
        "pipeline", [verify_pipeline, denoiser_dir, find_layout, lambda p: local_pipeline(str(p)),
        lambda p: import_pipeline(p, p.parent / "out"), lambda p: copy_pipeline(p, p.parent / "out", weights=True)],
    ),
    UNET: (
        "pipeline", [verify_pipeline, denoiser_shape, find_layout, lambda p: load_denoiser(p / "unet"),
        lambda p: class_to_load(p / "unet"), lambda p: import_pipeline(p, p.parent / "out")],
    ),
    SCHEDULER: ("pipeline", [verify_pipeline, load_noise_schedule, train_timesteps, source_schedule]),
    "vae/config.json": ("sd", [verify_pipeline, find_layout, lambda p: pixel_shape(p, (4, 8, 8))]),
    "text_encoder/config.json": ("sd", [verify_pipeline, find_layout, lambda p: blank_condition(p, 1, CPU)]),
    "tokenizer/tokenizer_config.json": ("sd", [verify_pipeline, find_layout]),
    "unet_ema/config.json": ("ema", [lambda p: find_layout(p / "unet_ema"), lambda p: import_pipeline(p / "unet_ema",
        p.parent / "out")]),
    "config.json": ("flat", [find_layout, lambda p: import_pipeline(p, p.parent / "out")]),
    "scheduler_config.json": ("flat", [source_schedule]),
    f"{WEIGHTS}.index.json": ("sharded", [lambda p: read_tensors(weights_file(p)), lambda p: map_tensors(
        weights_file(p)), lambda p: weights_hash(weights_file(p)), load_denoiser]),
    "extractor/config.json": ("extractors", [lambda p: read_config(p / "extractor"), lambda p: load_extractor(
        str(p / "extractor"))]),
    "dinov2/config.json": ("extractors", [lambda p: load_extractor(str(p / "dino"))]),
    "dinov2/preprocessor_config.json": ("extractors", [lambda p: load_extractor(str(p / "dino"))]),
    "merge.json": ("recipe", [lambda p: read_merge(p / "merge.json")]),
}  # fmt: skip
CASES = [(file, k) for file, (_, readers) in READERS.items() for k in range(len(readers))]


@pytest.fixture(scope="module")
def brought(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What users bring, each in order."""
    from transformers import Dinov2Config, Dinov2Model

    root = tmp_path_factory.mktemp("brought")
    write_stable_diffusion(root / "sd")
    for file in (root / "sd").rglob("*.bin"):
        file.unlink()
    shutil.copytree(pipeline, root / "ema")
    shutil.copytree(pipeline / "unet", root / "ema" / "unet_ema")
    shutil.copytree(pipeline / "unet", root / "flat")
    shutil.copy(pipeline / SCHEDULER, root / "flat")
    UNet2DModel.from_pretrained(pipeline / "unet").save_pretrained(root / "sharded", max_shard_size="10KB")
    source = root / "extractors" / "dinov2"
    dinov2 = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(dinov2).save_pretrained(source)
    processor = {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (source / "preprocessor_config.json").write_text(json.dumps(processor))
    for name, config in {
        "extractor": {"_class_name": "SmallClassifier", "channels": 1, "width": 8, "classes": 10},
        "dino": {"_class_name": "DINOv2", "source": str(source)},
        "clip": {"_class_name": "CLIP", "source": "owner/name", "revision": None},
        "inception": {"_class_name": "Inception", "resize": "clean", "weights": "inception-2015-12-05.pt"},
    }.items():
        (root / "extractors" / name).mkdir()
        (root / "extractors" / name / "config.json").write_text(json.dumps(config))
    weights = SmallClassifier(channels=1, width=8, classes=10).state_dict()
    write_tensors(root / "extractors" / "extractor" / "model.safetensors", weights)
    (root / "recipe").mkdir()
    recipe = {"method": "task_arithmetic", "weights": [0.5], "dtype": None, "max_shard_size": None}
    hashes = {"base_sha256": "0", "output_sha256": "0", "experts_sha256": ["0"]}
    (root / "recipe" / "merge.json").write_text(json.dumps(recipe | hashes))
    return {"pipeline": pipeline} | {folder.name: folder for folder in root.iterdir()}


def refused(reader: Reader, folder: Path, file: str) -> str:
    """The one line that a reader ends in; it names the file."""
    with pytest.raises(InputError) as error:
        reader(folder)
    message = str(error.value)
    assert str(folder / file) in message
    assert "\n" not in message and len(message) < 600
    return message


def copy(brought: dict[str, Path], name: str, to: Path) -> Path:
    """A copy of what a user brings, to be broken; an extractor's config follows its model."""
    folder = Path(shutil.copytree(brought[name], to / "brought"))
    if name == "extractors":
        config = {"_class_name": "DINOv2", "source": str(folder / "dinov2")}
        (folder / "dino" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(("file", "reader"), CASES)
def test_a_file_without_a_json_object_is_named(
    file: str, reader: int, broken: str, brought: dict[str, Path], tmp_path: Path
) -> None:
    name, readers = READERS[file]
    folder = copy(brought, name, tmp_path)
    (folder / file).write_bytes(BROKEN[broken])
    refused(readers[reader], folder, file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", READERS)
def test_what_is_in_order_is_read(file: str, brought: dict[str, Path], tmp_path: Path) -> None:
    name, readers = READERS[file]
    for k, reader in enumerate(readers):
        reader(copy(brought, name, tmp_path / str(k)))


def edit(file: Path, change: dict[str, Any]) -> None:
    """Change keys; a key whose new value is `...` goes."""
    content = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def clip(folder: Path) -> object:
    return load_extractor(str(folder / "clip"))


ODD: list[tuple[str, str, dict[str, Any], Reader]] = [
    # A denoiser's config
    *(("pipeline", UNET, {"sample_size": value}, reader)
      for value in (..., None, "8", [8], [8, 8, 8], [8, "8"], 0, -8, 8.5, {}) for reader in (denoiser_shape,
      find_layout)),
    *(("pipeline", UNET, {"in_channels": value}, denoiser_shape) for value in (..., None, "1", [1], 0)),
    *(("pipeline", UNET, {"_class_name": value}, reader)
      for value in (["UNet2DModel"], {}, 5) for reader in (verify_pipeline, lambda p: class_to_load(p / "unet"))),
    *(("pipeline", UNET, change, reader) for change in (
        {"_class_name": "VQModel"}, {"block_out_channels": 5}, {"block_out_channels": []}, {"norm_num_groups": 0},
        {"norm_num_groups": "four"}, {"down_block_types": ["NoBlock2D"] * 2}, {"layers_per_block": None},
    ) for reader in (verify_pipeline, lambda p: load_denoiser(p / "unet"))),
    # An index
    *(("pipeline", INDEX, {"unet": value}, reader)
      for value in (..., None, [], {}, "UNet2DModel", 5, [None, None], [["UNet2DModel"]], ["diffusers", {}])
      for reader in (verify_pipeline, denoiser_dir)),
    *(("sd", INDEX, {"vae": value}, reader)
      for value in (..., None, [], {}, "AutoencoderKL", 5, [None, None], [["AutoencoderKL"]], ["diffusers", {}])
      for reader in (verify_pipeline, find_layout)),
    # A scheduler's config
    *(("pipeline", SCHEDULER, {"_class_name": value}, verify_pipeline) for value in (..., None, [], {}, 5, "Euler")),
    *(("pipeline", SCHEDULER, {"prediction_type": value}, verify_pipeline) for value in ([], {}, 5, "score")),
    *(("pipeline", SCHEDULER, {"num_train_timesteps": value}, reader)
      for value in ("many", [1000], {}, 0, -1, 10.5) for reader in (verify_pipeline, load_noise_schedule,
      train_timesteps, source_schedule)),
    *(("pipeline", SCHEDULER, change, reader) for change in (
        {"beta_schedule": "steep"}, {"beta_schedule": []}, {"beta_start": "low"}, {"trained_betas": "all"},
    ) for reader in (verify_pipeline, load_noise_schedule, source_schedule)),
    # The frozen parts of a text-to-image pipeline
    *(("sd", "vae/config.json", change, reader) for change in (
        {"block_out_channels": ...}, {"block_out_channels": 4}, {"out_channels": "1"}, {"out_channels": ...},
    ) for reader in (verify_pipeline, find_layout, lambda p: pixel_shape(p, (4, 8, 8)))),
    *(("sd", "text_encoder/config.json", change, reader) for change in (
        {"hidden_size": ...}, {"hidden_size": "8"}, {"max_position_embeddings": None},
    ) for reader in (verify_pipeline, find_layout, lambda p: blank_condition(p, 1, CPU))),
    ("sd", "vae", {"norm_num_groups": 0}, lambda p: Autoencoder(p, CPU)),
    ("sd", "text_encoder", {"num_attention_heads": 0}, lambda p: TextEncoder(p, CPU)),
    # An index of shards
    *(("sharded", f"{WEIGHTS}.index.json", {"weight_map": value}, load_denoiser)
      for value in (..., None, [], "all", {"conv_in.bias": 5}, {"conv_in.bias": ["a"]}, {"conv_in.bias": "../a"})),
    # Extractors
    *(("extractors", "extractor/config.json", change, lambda p: load_extractor(str(p / "extractor"))) for change in (
        {"_class_name": ...}, {"_class_name": []}, {"_class_name": {}}, {"_class_name": "VGG"}, {"channels": ...},
        {"width": "8"}, {"classes": None}, {"depth": 3}, {"blocks": "two"},
    )),
    *(("extractors", "dino/config.json", {"source": value}, lambda p: load_extractor(str(p / "dino")))
      for value in (..., None, 5, [])),
    *(("extractors", "clip/config.json", change, clip) for change in ({"source": 5}, {"source": ...},
      {"revision": 5})),
    *(("extractors", "inception/config.json", change, lambda p: load_extractor(str(p / "inception")))
      for change in ({"resize": ...}, {"resize": []}, {"weights": ...}, {"weights": 5})),
    *(("extractors", "dinov2/config.json", {"model_type": value}, lambda p: load_extractor(str(p / "dino")))
      for value in (..., None, [], 5, "vit")),
    ("extractors", "dinov2/config.json", {"num_attention_heads": 0}, lambda p: load_extractor(str(p / "dino"))),
    *(("extractors", "dinov2/preprocessor_config.json", change, lambda p: load_extractor(str(p / "dino")))
      for change in (
        {"crop_size": ...}, {"crop_size": 28}, {"crop_size": {"height": 28}}, {"crop_size": {"height": [], "width": 1}},
        {"image_mean": ...}, {"image_mean": 0.5}, {"image_mean": [0.5]}, {"image_std": ["a", "b", "c"]},
    )),
    # A recipe
    *(("recipe", "merge.json", change, lambda p: read_merge(p / "merge.json")) for change in (
        {"method": ...}, {"method": []}, {"method": {}}, {"method": "slerp"}, {"weights": "half"}, {"weights": [[]]},
        {"weights": ...}, {"base_sha256": 5}, {"experts_sha256": 5}, {"max_shard_size": "5GB"}, {"dtype": []},
    )),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ODD)), ids=lambda case: f"{ODD[case][1]}-{ODD[case][2]}-{case}")
def test_a_value_that_is_missing_or_odd_is_named_with_its_file(
    case: int, brought: dict[str, Path], tmp_path: Path
) -> None:
    name, file, change, reader = ODD[case]
    folder = copy(brought, name, tmp_path)
    broken = file if file.endswith(".json") else f"{file}/config.json"
    edit(folder / broken, change)
    if file == INDEX:  # what it fails to name is told of the pipeline
        with pytest.raises(InputError, match=rf"{re.escape(str(folder))}.*model_index\.json") as error:
            reader(folder)
        assert "\n" not in str(error.value)
    else:
        refused(reader, folder, file)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_config_of_open_clip_is_named(broken: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception)
    (tmp_path / CLIP_WEIGHTS).touch()
    (tmp_path / CONFIG).write_bytes(BROKEN[broken])
    refused(lambda folder: load_open_clip(str(folder)), tmp_path, CONFIG)


@pytest.mark.parametrize(
    "config",
    [{}, {"model_cfg": {}}, {"model_cfg": [], "preprocess_cfg": {}}, {"model_cfg": {"text_cfg": 5},
     "preprocess_cfg": {}}, {"model_cfg": {"text_cfg": []}, "preprocess_cfg": None}],
)  # fmt: skip
def test_an_odd_config_of_open_clip_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="open_clip needs a torchvision that matches torch", exc_type=Exception)
    (tmp_path / CLIP_WEIGHTS).touch()
    (tmp_path / CONFIG).write_text(json.dumps(config))
    refused(lambda folder: load_open_clip(str(folder)), tmp_path, CONFIG)


@pytest.mark.parametrize("part", ["..", "", ".", "../beside", "unet/../../beside"])
def test_a_part_that_lies_outside_of_its_pipeline_is_not_copied(part: str, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "in" / "pipeline")
    (tmp_path / "in" / "beside").mkdir()
    (tmp_path / "in" / "beside" / "secret").touch()
    edit(tmp_path / "in" / "pipeline" / INDEX, {part: ["diffusers", "AutoencoderKL"]})
    import_pipeline(tmp_path / "in" / "pipeline", tmp_path / "out" / "pipeline")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pipeline"]
    assert not list((tmp_path / "out").rglob("secret"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xce\xb8"}')
    assert read_json(tmp_path / "a.json", {"a": str, "b": int | None}) == {"a": "θ"}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file; write or fetch it"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match=f"{tmp_path}: no such file"):
        read_json(tmp_path)
