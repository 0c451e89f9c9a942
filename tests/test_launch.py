"""launch.yaml: what it may say, and that a stage's work runs where it says, with the same bytes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, files_of

from deme_core.errors import InputError
from deme_core.launching.devices import threads
from deme_core.launching.place import command
from deme_core.launching.settings import Launch, Launches, told
from deme_core.preflight.check import check
from studies import run as studies

JOB = {"run": "slurm", "time": "1:00:00"}
STAGE = """
import json, os, sys
from pathlib import Path
from deme_core.processes import is_main, launched, partial_state
from deme_core.stage import run

def main() -> str:
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    if is_main():
        out.write_text(json.dumps({"processes": partial_state().num_processes, "arguments": sys.argv[1:],
                                   "threads": os.environ.get("OMP_NUM_THREADS"),
                                   "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}))
    return "it is made"

if __name__ == "__main__":
    run(main, shared=SHARED)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, a stage that processes share and one that they do not, and the working directory."""
    shutil.copytree(REPOSITORY / "deme_core", tmp_path / "deme_core", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "stages").mkdir()
    for name, shared in {"many": True, "alone": False}.items():
        (tmp_path / "stages" / f"{name}.py").write_text(f'"""A stage."""\n{STAGE.replace("SHARED", str(shared))}')
    (tmp_path / "dvc.yaml").write_text("stages: {many: {cmd: x}, alone: {cmd: x}}\n")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    subprocess.run([sys.executable, "-m", "deme_core.code_links"], cwd=tmp_path, check=True, env=own_path(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", own_path(tmp_path)["PYTHONPATH"])
    return tmp_path


def own_path(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def launch_yaml(folder: Path, **entries: object) -> None:
    (folder / "launch.yaml").write_text(yaml.safe_dump(entries))


def stage(name: str, **environment: str) -> dict[str, object]:
    """What a stage has written; it must succeed."""
    words = [sys.executable, "-m", f"stages.{name}", "--out", "out.json", "--word", "two words"]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name}: it is made"]
    return json.loads(Path("out.json").read_text())


def test_the_example_holds_and_says_every_key(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "launch.example.yaml", tmp_path / "launch.yaml")
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    launches = Launches.read(tmp_path)
    assert launches.of("data") == Launch(run="here")
    assert launches.of("finetune_range@3") == Launch(run="accelerate", processes=2)
    assert launches.of("sample@merged").minutes == 120
    keys = yaml.safe_load((REPOSITORY / "launch.example.yaml").read_text())["sample"]
    assert keys.keys() == Launch.__dataclass_fields__.keys()
    assert told(tmp_path)[1] == "  finetune_range         accelerate, processes 2"


def test_git_ignores_it_and_without_it_all_runs_here(tmp_path: Path) -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "launch.yaml", "slurm_logs/x"], cwd=REPOSITORY, capture_output=True
    )
    assert len(ignored.stdout.split()) == 2
    assert Launches.read(tmp_path).of("sample@merged") == Launch() and told(tmp_path) == []


def test_the_nearest_entry_holds() -> None:
    exact, group = Launch(run="slurm", time="1:00:00"), Launch(run="accelerate", processes=2)
    other = Launch(run="slurm", time="1:00:00", gpus=1)
    launches = Launches({"e@2": exact, "e": group, "default": other})
    assert [launches.of(name) for name in ("e@2", "e@1", "e", "x")] == [exact, group, group, other]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"smaple": "here"}, "'smaple' is no stage of dvc.yaml, did you mean sample?"),
        ({"sample": "slrum"}, "sample.run = 'slrum': must be one of here, accelerate, slurm"),
        ({"sample": {"run": "slurm", "gpu": 1}}, "unknown key sample.gpu, did you mean sample.gpus?"),
        ({"sample": {"run": "slurm", "time": 7200}}, "sample.time = 7200: must be of type str"),
        ({"sample": {"run": "slurm", "time": "90"}}, "sample: time = '90': must be \"HH:MM:SS\""),
        ({"sample": "slurm"}, "sample: time = None: a job needs one, at which it is queued again"),
        (
            {"default": {"run": "slurm", "gpus": 1}},
            "default: time = None: a job needs one",
        ),
        ({"sample": JOB | {"time": "0:00:00"}}, "sample: time = '0:00:00': must be at least \"0:01:00\": SLURM counts"),
        ({"sample": JOB | {"time": "0-00:00:59"}}, "sample: time = '0-00:00:59': must be at least"),
        ({"sample": JOB | {"memory": 0}}, "sample: memory = 0.0: must be at least 0.001, in GB"),
        ({"sample": JOB | {"memory": 0.0004}}, "sample: memory = 0.0004: must be at least 0.001, in GB"),
        ({"sample": JOB | {"memory": float("inf")}}, "sample: memory = inf: must be at least 0.001, in GB, and finite"),
        ({"sample": {"run": "slurm", "gpus": -1}}, "sample: gpus = -1: must be at least 0"),
        ({"sample": {"run": "slurm", "sbatch": {"mem": "4G"}}}, "sbatch.mem = '4G': has a key of its own here, memory"),
        ({"sample": {"run": "slurm", "sbatch": {"output": "x"}}}, "sbatch.output = 'x': is set by"),
        ({"sample": {"run": "slurm", "sbatch": {"qos": ["a"]}}}, "sbatch.qos = ['a']: must be text"),
        ({"sample": {"run": "accelerate"}}, "sample: processes = 1: accelerate is for two or more"),
        ({"sample": {"processes": 2}}, "sample: processes = 2: several need run: accelerate"),
        ({"sample": {"run": "here", "partition": "gpu"}}, "sample: partition = 'gpu': is for run: slurm alone"),
        ({"sample": 3}, "sample = 3 must be a section"),
        (["sample"], "must map names of stages"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, entries: object, says: str) -> None:
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    (tmp_path / "launch.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(InputError) as error:
        Launches.read(tmp_path)
    assert str(error.value).startswith("launch.yaml: ") and "\n" not in str(error.value)
    assert says in str(error.value)


def test_what_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    (tmp_path / "launch.yaml").write_text("a: [\nb: }")
    with pytest.raises(InputError, match=r"^launch.yaml: is no YAML: [^\n]*$"):
        Launches.read(tmp_path)


@pytest.mark.parametrize(("time", "minutes"), [("0:30:00", 30), ("1:00:01", 61), ("0:01:00", 1), ("2-03:04:00", 3064)])
def test_times(time: str, minutes: int) -> None:
    assert Launch(run="slurm", time=time).minutes == minutes


def test_several_processes_share_a_stage_that_can_be_shared(checkout: Path) -> None:
    here = stage("many")
    launch_yaml(checkout, default={"run": "accelerate", "processes": 2})
    two = stage("many", OMP_NUM_THREADS="6")
    assert (here["processes"], two["processes"], two["threads"]) == (1, 2, "3")
    assert here["arguments"] == two["arguments"] == ["--out", "out.json", "--word", "two words"]
    assert stage("alone")["processes"] == 1


def test_a_wrong_file_stops_a_stage_before_its_work(checkout: Path) -> None:
    launch_yaml(checkout, many="elsewhere")
    done = subprocess.run([sys.executable, "-m", "stages.many"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: launch.yaml: many.run = 'elsewhere': must be one of")
    assert done.stderr.count("\n") == 1


def test_slurm_without_slurm_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch_yaml(checkout, many=JOB)
    environment = os.environ | {"PATH": str(checkout)}
    done = subprocess.run([sys.executable, "-m", "stages.many"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: launch.yaml: many: run: slurm, and no sbatch is here")


def test_commands_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("x", ["--a"], 1) == [sys.executable, "-m", "stages.x", "--a"]
    assert command("x", ["--a"], 2)[-5:] == ["--nproc-per-node", "2", "-m", "stages.x", "--a"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert [threads(n)["OMP_NUM_THREADS"] for n in (1, 2, 9)] == ["5", "2", "1"]


def test_it_is_in_no_closure_so_that_it_retrains_nothing() -> None:
    assert list((REPOSITORY / "closures").glob("*/deme_core/launching")) == []


def test_make_check_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "zoo", "prompts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert "launch.yaml" not in check(params)[0]
    launch_yaml(tmp_path, default=JOB)
    assert "Where it runs, by launch.yaml\n  default                slurm, time 1:00:00\n" in check(params)[0]


def test_queued_experiments_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(studies, "command", lambda *words: calls.append(words) or "")
    studies.queue({"x-1": []}, ["report"], 1)
    launch_yaml(tmp_path, default=JOB)
    studies.queue({"x-1": []}, ["report"], 1)
    without, queued = (words for words in calls if words[:2] == ("exp", "run"))
    assert "--copy-paths" not in without
    assert queued[queued.index("--copy-paths") + 1] == "launch.yaml" and files_of(tmp_path).keys() == {"launch.yaml"}
