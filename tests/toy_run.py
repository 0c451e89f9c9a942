"""A run of the whole DAG in seconds, for the tests of it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from analysed import SMALL
from conftest import REPOSITORY, files_of
from dag_runs import whole_dag

DAG = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
CORE = ["full_range", "soup_full_range"]
OUTPUTS = ("data", "models", "samples", "features", "search", "scores", "measures", "metrics", "reports")
TOY = {
    "name": "toy",
    "N": 2,
    "baselines": [],
    "analyses": [],
    "dag": whole_dag(2, []),
    "reference": {"extractor": "zoo/digits-features"},
    "pretrain_load": {"source": "zoo/digits-ddpm"},
    "finetune_range": {"iterations": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 4},
    "merge_search": {
        "method": "grid", "budget": 100, "images": 20, "values": [0.0, 0.5], "scales": [0.5, 1.0], "away": [0.5],
        "finalists": 1,
        "final_images": 80, "final_blocks": 2,
    },
    "own_samples": {"images": 20, "ranges": 2},
    "sampler": {"steps": 2, "block": 20},
    "sample": {"images": 120},
    "gate": {"draws": 1, "must_win": "warn"},
    "loss_matrix": {"draws": 1},
    "analyse": SMALL,
}  # fmt: skip


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folders = {
        f"DVC_{name}": str(project / ".dvc" / "tmp" / name)
        for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR")
    }
    environment = os.environ | folders | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '(\S+)'", output, re.MULTILINE)


def repro(project: Path, *options: str) -> list[str]:
    """`dvc repro`, which must succeed: the stages that it ran."""
    run = dvc(project, "repro", *options)
    assert run.returncode == 0, run.stdout[-5000:]
    return stages_run(run.stdout)


def change_params(project: Path, changes: dict[str, Any]) -> None:
    """Change keys of params.yaml; a section's other keys stay."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def make_toy(project: Path, pipeline: Path, extractor_dir: Path) -> Path:
    """A toy copy of the repository in which nothing has run."""
    for name in ("deme_core", "stages", "conf", "hydra_plugins", "closures"):
        shutil.copytree(REPOSITORY / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, project)
    shutil.copytree(pipeline, project / "zoo" / "digits-ddpm")
    shutil.copytree(extractor_dir, project / "zoo" / "digits-features")
    shutil.copytree(REPOSITORY / "zoo" / "judges" / "digits", project / "zoo" / "judges" / "digits")
    (project / "reports" / "analyses").mkdir(parents=True)
    shutil.copy(REPOSITORY / "reports" / "analyses" / "README.md", project / "reports" / "analyses")
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    check_update = false\n")
    change_params(project, TOY)
    return project


def outputs(project: Path) -> dict[str, str]:
    """Every file of every output but the mark of validate, which DVC clears before that stage runs."""
    files = {f"{name}/{file}": value for name in OUTPUTS for file, value in files_of(project / name).items()}
    no_outputs = ("data/params.checked", "reports/analyses/README.md")
    return {file: value for file, value in files.items() if file not in no_outputs}


def every_stage(N: int, baselines: Sequence[str] = ()) -> list[str]:
    """The stages of dvc.yaml with their foreach spelled out: over a list its entries, over a section its keys."""
    section = {f"${{dag.{name}}}": items for name, items in whole_dag(N, baselines).items()} | {"${inputs.prompts}": []}
    items = {name: section[stage["foreach"]] if "foreach" in stage else None for name, stage in DAG.items()}
    names = [name for name, each in items.items() if each is None]
    return names + [f"{name}@{item}" for name, each in items.items() if each is not None for item in each]
