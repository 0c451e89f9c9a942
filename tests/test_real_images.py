"""A user's checkpoint and images through real `dvc repro`: a flat repository, a folder of all kinds, a calibration."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from hub_files import write_flat
from image_files import BROKEN, encoded, noise, users_images, write_folder
from toy_run import TOY, change_params, dvc, repro

from deme_core.inputs import inputs
from deme_core.tensors import read_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def project(tmp_path: Path, rgb_extractor: Path) -> Path:
    """A toy copy of the repository with a CIFAR10-like checkpoint and a folder of pictures, some of them broken."""
    for name in ("deme_core", "stages", "conf", "hydra_plugins"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    check_update = false\n")
    write_flat(tmp_path / "flat", "cifar10")
    pictures = {f"{k:03}.png": encoded(noise(20 + k, 40, seed=k)) for k in range(40)}
    write_folder(tmp_path / "pictures", users_images() | BROKEN | pictures)
    shutil.copytree(rgb_extractor, tmp_path / "extractor")
    change_params(tmp_path, TOY)
    change_params(
        tmp_path,
        {
            "data": {"source": "folder", "path": "pictures", "size": 32, "held_out": 0.2, "crop": "random"},
            "pretrain_load": {"source": "flat"},
            "reference": {"extractor": "extractor"},
            "finetune_range": {"batch_size": 2},
            "calibrate": {"value": 1e6, "source": "nobody"},
        },
    )
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    change_params(tmp_path, {"inputs": inputs(params, tmp_path)})
    return tmp_path


def test_the_whole_run(project: Path) -> None:
    stopped = dvc(project, "repro")
    assert stopped.returncode != 0
    assert "3 of 50 images are unreadable" in stopped.stdout
    assert not (project / "models").exists()  # nothing was trained
    change_params(project, {"data": {"unreadable": "skip"}})
    repro(project)
    metrics = json.loads((project / "metrics" / "merged.json").read_text())
    assert metrics["reference_images"] == 37
    assert 0 <= metrics["precision"] <= 1
    weights = project / "models" / "pretrained" / "unet" / "diffusion_pytorch_model.safetensors"
    assert read_recipe(weights) == {"converted_from": "diffusion_pytorch_model.bin"}
    assert not list((project / "models").rglob("*.bin"))
    assert "**Warning: the base does not reproduce.**" in (project / "reports" / "run" / "results.md").read_text()
