"""What every stage script shares: a mistake in the input ends in one line and exit status 1, not in a traceback."""

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from deme_core.code_links import check_links
from deme_core.errors import InputError
from deme_core.naming import shown
from deme_core.parallel import torch_threads
from deme_core.params import check, section
from deme_core.processes import is_main, launched, partial_state, wait

ONE_PROCESS = (
    "one process works on this: `accelerate launch` starts several with --multi_gpu alone, on a CPU as well, whatever"
    " --num_processes says; so does torchrun"
)


def run(main: Callable[[], str | None], *, shared: bool = False) -> None:
    """Run a stage's `main`.

    Args:
        main: returns what it made, in one line for people; the main process prints it after the stage's name.
        shared: whether the processes of a launch share its work. Of another stage the main process does all of it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # θ, or a file's name, may be beyond the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        if (script := Path(main.__code__.co_filename)).parent.name == "stages":
            check_links(script, script.parents[1])
            place(script.stem, shared=shared)
        alone = not launched()
        if alone and shared and "ACCELERATE_USE_CPU" in os.environ:
            print(ONE_PROCESS, file=sys.stderr)
        # One core but for pieces of work: no byte depends on the number of cores.
        with torch_threads(1), threadpool_limits(1, "blas"):
            made = main() if alone or shared or is_main() else None
        if made and (alone or is_main()):
            print(f"{script.stem}: {made}", flush=True)
        if not alone:
            wait()
            partial_state().destroy_process_group()
    except InputError as error:
        sys.exit(f"error: {shown(error)}")


def place(stage: str, *, shared: bool) -> None:
    """Where launch.yaml wants the work of a stage elsewhere: have it done there, and end as it ends."""
    if launched() or "DEME_PLACED" in os.environ or not Path("launch.yaml").is_file() or "--help" in sys.argv:
        return
    # By its name, so that it stands in no closure: where work is done changes nothing of what it makes.
    status = import_module("deme_core.launching.place").elsewhere(stage, sys.argv[1:], shared=shared)
    if status is not None:
        sys.exit(status)


@dataclass(frozen=True, kw_only=True)
class RunParams:
    """The top-level keys: what a study varies."""

    name: str
    """The experiment, for titles."""
    N: int
    """Number of timestep ranges."""
    p: float
    """Probability of drawing a training timestep from the full range (Eq. 6)."""
    seed: int
    """Of training only; the seeds of search and evaluation are fixed."""
    boundaries: tuple[int, ...] | None
    """N + 1 timesteps from 0 to T, or null for N equal ranges."""
    baselines: tuple[str, ...]
    """Whom DeMe is compared with, names of `deme_core.dag.BASELINES`."""
    directions: tuple[str, ...]
    """Where task vectors come from, names of `deme_core.dag.DIRECTIONS`."""
    random_draws: int
    """Of the null: merges of random vectors as long as the task vectors, searched as DeMe is."""

    def __post_init__(self) -> None:
        check(self.N >= 1, "N", self.N, "the number of ranges must be at least 1")
        check(0 <= self.p <= 1, "p", self.p, "a probability must lie in [0, 1]")
        check(self.seed >= 0, "seed", self.seed, "must not be negative")
        check(self.random_draws >= 1, "random_draws", self.random_draws, "must be at least 1: no gain counts without")


def run_params(params: dict[str, Any]) -> RunParams:
    """The top-level keys of params.yaml."""
    keys = RunParams.__dataclass_fields__
    return section({"run": {k: v for k, v in params.items() if k in keys}}, "run", RunParams)
