"""The DVC pipeline on a toy copy of the repository, in part: its stages, runs that stop early, edits of own files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from dag_runs import whole_dag
from diffusers import DiffusionPipeline
from toy_run import CORE, change_params, dvc, every_stage, make_toy, outputs, repro, stages_run

from deme_core.checkpoints import load_denoiser
from deme_core.dag import BASELINES


@pytest.fixture(scope="module")
def toy(pipeline: Path, extractor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy copy of the repository in which nothing has run."""
    return make_toy(tmp_path_factory.mktemp("toy") / "project", pipeline, extractor_dir)


@pytest.mark.parametrize(("N", "baselines"), [(1, []), (8, []), (2, CORE), (4, list(BASELINES))])
def test_the_stages_follow_N_and_the_baselines(toy: Path, tmp_path: Path, N: int, baselines: list[str]) -> None:
    shutil.copytree(toy, tmp_path / "project", symlinks=True)
    change_params(tmp_path / "project", {"N": N, "baselines": baselines, "dag": whole_dag(N, baselines)})
    run = dvc(tmp_path / "project", "stage", "list", "--name-only")
    assert run.returncode == 0, run.stdout
    assert sorted(run.stdout.split()) == sorted(every_stage(N, baselines))


def test_a_copy_of_the_repository_runs_its_own_code(toy: Path, tmp_path: Path) -> None:
    """Not what is installed: `dvc exp run --temp` and `--queue` work in such copies, each of its own commit."""
    shutil.copytree(toy, tmp_path / "project", symlinks=True)
    with (tmp_path / "project" / "deme_core" / "stage.py").open("a") as file:
        file.write('\nsys.exit(f"own code: {__file__}")\n')
    run = dvc(tmp_path / "project", "repro", "validate")
    assert run.returncode != 0
    assert f"own code: {tmp_path / 'project' / 'deme_core' / 'stage.py'}" in run.stdout


def test_a_wrong_param_ends_a_fresh_run_in_one_line(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "project", symlinks=True)
    change_params(tmp_path / "project", {"p": 1.5})
    run = dvc(tmp_path / "project", "repro")
    assert run.returncode != 0
    assert stages_run(run.stdout) == ["validate"]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert line == "error: params: p = 1.5: a probability must lie in [0, 1]"
    assert "Traceback" not in run.stdout
    assert outputs(tmp_path / "project") == {}


def test_baselines_without_their_dag_end_a_fresh_run_in_one_line(toy: Path, tmp_path: Path) -> None:
    """params.yaml edited by hand: its dag is still that of no baselines, and so are the stages."""
    shutil.copytree(toy, tmp_path / "project", symlinks=True)
    change_params(tmp_path / "project", {"baselines": CORE})
    run = dvc(tmp_path / "project", "repro")
    assert run.returncode != 0
    assert stages_run(run.stdout) == ["validate"]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: params: dag is not that of N = 2, baselines = ['full_range', 'soup_full_range']")
    assert "Traceback" not in run.stdout
    assert outputs(tmp_path / "project") == {}


@pytest.mark.slow
def test_a_model_without_any_image_comes_to_a_merge_in_one_command(toy: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(toy, tmp_path / "project", symlinks=True))
    change_params(project, {"data": {"source": "none", "held_out": None}, "away": {"w": 0.5}})
    names = {f"{name}@pretrained" for name in ("own_samples", "own_examples", "finetune_own", "gate_own", "merge_away")}
    assert set(repro(project, "merge_away@pretrained")) == {"validate", "data", "pretrain_load", *names}
    base, *experts = (
        load_denoiser(project / "models" / name).state_dict() for name in ("pretrained/unet", "own/1", "own/2")
    )
    merged = DiffusionPipeline.from_pretrained(project / "models" / "away").unet.state_dict()
    for key, theta in base.items():
        step = sum(expert[key] - theta for expert in experts) / 2
        assert merged[key].numpy() == pytest.approx((theta - 0.5 * step).numpy(), abs=1e-6), key
    for stage in ("encode", "reference", "judge_reference"):
        run = dvc(project, "repro", stage)
        assert run.returncode != 0
        (line,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: params: data.source = none: there is no image to train on")


def test_an_edit_of_the_users_own_files_runs_their_readers_again(toy: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(toy, tmp_path / "project", symlinks=True))
    np.savez(project / "statistics.npz", mu=np.zeros(8), sigma=np.eye(8))
    shutil.copytree(project / "zoo" / "digits-ddpm", project / "mine" / "base")
    change_params(
        project,
        {
            "reference": {"statistics": "statistics.npz"}, "pretrain_load": {"source": "mine/base"},
            "inputs": {"statistics": "statistics.npz", "base": "mine/base", "validate": "mine/base"},
        },
    )  # fmt: skip
    assert set(repro(project, "reference", "pretrain_load")) == {"validate", "data", "reference", "pretrain_load"}
    before = outputs(project)
    np.savez(project / "statistics.npz", mu=np.ones(8), sigma=np.eye(8))
    with (project / "mine" / "base" / "scheduler" / "scheduler_config.json").open("a") as file:
        file.write("\n")
    (project / "zoo" / "digits-ddpm" / "model_index.json").unlink()  # of another experiment
    assert set(repro(project, "reference", "pretrain_load")) == {"validate", "reference", "pretrain_load"}
    after = outputs(project)
    assert after.keys() == before.keys()
    assert {file for file in before if after[file] != before[file]} == {
        "data/reference/statistics.safetensors", "models/pretrained/scheduler/scheduler_config.json",
    }  # fmt: skip
