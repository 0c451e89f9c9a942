"""The parts of a text-to-image pipeline on disk: read without pickles, and each must be there."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import files_of
from text_to_image import write_stable_diffusion

from deme_core.checkpoints import verify_pipeline
from deme_core.components import frozen_hashes
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline, local_pipeline


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it, pickles included; not to be written to."""
    return write_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd")


@pytest.fixture
def pipeline(hub: Path, tmp_path: Path) -> Path:
    """As the stage pretrain_load leaves it; may be written to."""
    import_pipeline(hub, tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_the_layout_of_the_hub_is_read_without_its_pickles(hub: Path, pipeline: Path) -> None:
    verify_pipeline(pipeline)
    found, original = files_of(pipeline), files_of(hub)
    assert found == {name: sha for name, sha in original.items() if not name.endswith((".bin", ".md"))}


@pytest.mark.parametrize("part", ["vae", "tokenizer", "text_encoder"])
def test_a_pipeline_without_a_part_is_refused(pipeline: Path, part: str) -> None:
    shutil.rmtree(pipeline / part)
    with pytest.raises(InputError, match=f"'{part}' is missing") as error:
        verify_pipeline(pipeline)
    assert "\n" not in str(error.value)


def test_a_missing_part_is_seen_before_anything_is_copied(hub: Path, tmp_path: Path) -> None:
    shutil.copytree(hub, tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "vae")
    for call in (
        lambda: import_pipeline(tmp_path / "sd", tmp_path / "out"),
        lambda: local_pipeline(str(tmp_path / "sd")),
    ):
        with pytest.raises(InputError, match="'vae' is missing"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_second_text_encoder_is_refused(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    (pipeline / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="has a text_encoder_2; only pipelines with one text encoder"):
        verify_pipeline(pipeline)


def test_a_part_that_the_index_does_not_name_is_missing(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    for nothing in ({"vae": [None, None]}, {}):
        changed = {key: value for key, value in index.items() if key != "vae"} | nothing
        (pipeline / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match="'vae' is missing"):
            verify_pipeline(pipeline)


def test_a_part_of_an_unknown_class_or_without_weights_is_refused(pipeline: Path) -> None:
    text = (pipeline / "model_index.json").read_text()
    (pipeline / "model_index.json").write_text(text.replace("AutoencoderKL", "VQModel"))
    with pytest.raises(InputError, match="vae is a VQModel; read is AutoencoderKL"):
        verify_pipeline(pipeline)
    (pipeline / "model_index.json").write_text(text)
    (pipeline / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="text_encoder: holds no weights; fetch them"):
        verify_pipeline(pipeline)


@pytest.mark.parametrize(
    "file", ["vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json", "tokenizer/added.json"]
)
def test_every_file_of_the_frozen_parts_tells_work_apart(pipeline: Path, file: str) -> None:
    """A scaling factor, an activation or a vocabulary changes what the same weights give."""
    before = frozen_hashes(pipeline)
    assert before == frozen_hashes(pipeline) and set(before) == {"vae", "text_encoder", "tokenizer"}
    content = json.loads((pipeline / file).read_text()) if (pipeline / file).is_file() else {}
    (pipeline / file).write_text(json.dumps(content | {"scaling_factor": 0.5}))
    assert frozen_hashes(pipeline) != before
