"""launch.yaml: where the work of each stage runs on this machine, which is nothing that a result depends on."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deme_core.errors import InputError
from deme_core.naming import brief
from deme_core.params import check, nearest, section

FILE, DEFAULT = Path("launch.yaml"), "default"
TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
FOR_SLURM = ("partition", "gpus", "cpus", "memory", "time", "timeouts", "setup", "sbatch")
# Of sbatch's own keys those that may not stand below `sbatch`.
HAVE_A_KEY = {"partition": "partition", "gpus": "gpus", "gpus-per-node": "gpus", "cpus-per-task": "cpus",
              "mem": "memory", "time": "time"}  # fmt: skip
SUBMITITS = ("job-name", "output", "error", "open-mode", "signal", "array", "ntasks-per-node", "nodes")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How the work of one stage is run."""

    run: Literal["here", "accelerate", "slurm"] = "here"
    """In the process that DVC started, in several on this machine, or in a SLURM job."""
    processes: int = 1
    """That share the work: one a GPU, where there are GPUs; with `slurm` inside the job."""
    partition: str | None = None
    """Null: the cluster's own choice, as for gpus, cpus and memory."""
    gpus: int | None = None
    cpus: int | None = None
    memory: float | None = None
    """In GB."""
    time: str | None = None
    """Of one run of the job, "HH:MM:SS" or "D-HH:MM:SS"; what is not done by then goes on in the next. A job has one:
    by it submitit tells the end of its time, after which it is queued again, from a preemption."""
    timeouts: int = 10
    """How often the job may meet that limit and be queued again."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the work, such as `module load cuda`."""
    sbatch: dict[str, Any] | None = None
    """Any other key of sbatch, such as account, constraint, qos."""

    def __post_init__(self) -> None:
        check(self.processes >= 1, "processes", self.processes, "at least one does the work")
        alone = self.processes == 1 and self.run == "accelerate"
        check(not alone, "processes", self.processes, "accelerate is for two or more; run: here is one")
        check(self.processes == 1 or self.run != "here", "processes", self.processes, "several need run: accelerate")
        for key in FOR_SLURM if self.run != "slurm" else ():
            value = getattr(self, key)
            check(not value or (key, value) == ("timeouts", 10), key, value, "is for run: slurm alone")
        for key, least in {"gpus": 0, "cpus": 1, "timeouts": 0}.items():
            value = getattr(self, key)
            check(value is None or value >= least, key, value, f"must be at least {least}")
        rule = "must be at least 0.001, in GB, and finite: SLURM takes 0 MB for all of a machine's"
        check(self.memory is None or 0.001 <= self.memory < math.inf, "memory", self.memory, rule)
        rule = 'must be "HH:MM:SS" or "D-HH:MM:SS", in quotes'
        check(self.time is None or bool(TIME.fullmatch(self.time)), "time", self.time, rule)
        for key, value in (self.sbatch or {}).items():
            name, where = key.replace("_", "-"), f"sbatch.{key}"
            check(name not in HAVE_A_KEY, where, value, f"has a key of its own here, {HAVE_A_KEY.get(name)}")
            check(name not in SUBMITITS, where, value, "is set by what follows the job")
            check(isinstance(value, str | int | float), where, value, "must be text, a number or true")
        rule = 'a job needs one, at which it is queued again and goes on; give it in quotes, such as "4:00:00"'
        check(self.time is not None or self.run != "slurm", "time", self.time, rule)
        rule = 'must be at least "0:01:00": SLURM counts minutes, and takes 0 for no limit at all'
        check(self.seconds is None or self.seconds >= 60, "time", self.time, rule)

    @property
    def seconds(self) -> int | None:
        """The time."""
        if self.time is None or not (found := TIME.fullmatch(self.time)):
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def minutes(self) -> int | None:
        """The time, rounded up."""
        return None if self.seconds is None else -(-self.seconds // 60)

    def __str__(self) -> str:
        """For people: what differs from the default."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "run"}
        told = {name: value for name, value in values.items() if value != getattr(Launch(), name)}
        words = [f"{name} {' ; '.join(value) if name == 'setup' else value}" for name, value in told.items()]
        return ", ".join([self.run, *words])


class Launches:
    """The whole of launch.yaml."""

    def __init__(self, entries: Mapping[str, Launch]):
        """`entries`: stage of dvc.yaml, one of its group as `finetune_range@1`, or `default` -> how it is run."""
        self.entries = dict(entries)

    def of(self, stage: str) -> Launch:
        """Of a stage as DVC calls it: its own entry, its group's, or the default."""
        for name in (stage, stage.partition("@")[0], DEFAULT):
            if name in self.entries:
                return self.entries[name]
        return Launch()

    @classmethod
    def read(cls, folder: Path = Path()) -> "Launches":
        """That of a checkout; where there is none, all stages run here.

        Raises:
            InputError: it is no YAML, or names a stage, a key or a value that is none.
        """
        import yaml

        file = folder / FILE
        if not file.is_file():
            return cls({})
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{FILE}: is no YAML: {brief(error)}") from error
        if not isinstance(found, dict):
            raise InputError(f"{FILE}: must map names of stages to how each is run, see launch.example.yaml")
        return cls({str(name): entry(str(name), value, [DEFAULT, *stages]) for name, value in found.items()})


def entry(name: str, value: Any, known: list[str]) -> Launch:
    """One entry: `here` is short for `{run: here}`."""
    if name.partition("@")[0] not in known:
        raise InputError(f"{FILE}: {name!r} is no stage of dvc.yaml{nearest(name, known)}")
    try:
        return section({name: {"run": value} if isinstance(value, str) else value}, name, Launch)
    except InputError as error:
        text = str(error).removeprefix("params: ")
        raise InputError(f"{FILE}: {text if name in text else f'{name}: {text}'}") from None


def told(folder: Path = Path()) -> list[str]:
    """For `make check`: a line for each entry, and none where there is no launch.yaml."""
    entries = Launches.read(folder).entries
    return [f"  {name:<22} {launch}" for name, launch in entries.items()]
