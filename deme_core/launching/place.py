"""A stage's process hands its work to where launch.yaml wants it, with its very arguments."""

import os
import sys
from collections.abc import Sequence

from deme_core.errors import InputError
from deme_core.launching.devices import PLACED, gpus, threads
from deme_core.launching.settings import FILE, Launches


def elsewhere(script: str, arguments: Sequence[str], *, shared: bool) -> int | None:
    """Do a stage's work where launch.yaml wants it.

    Args:
        script: its name in stages/; DVC says which stage of dvc.yaml it stands for.
        shared: whether several processes share its work; of another stage, one does all.

    Returns:
        Its exit status; None: this process is to do it.
    """
    name = os.environ.get("DVC_STAGE", script).rpartition(":")[2]
    launch = Launches.read().of(name)
    processes = launch.processes if shared else 1
    words = command(script, arguments, processes)
    if launch.run == "slurm":
        from deme_core.launching.slurm import run_job

        return run_job(name, words, processes, launch)
    if launch.run == "accelerate" and shared:
        if 0 < (devices := len(gpus())) < launch.processes:
            raise InputError(
                f"{FILE}: {name}: {launch.processes} processes need as many GPUs, and {devices} can be seen here;"
                " lower processes, or the --jobs among which deme repro shares them"
            )
        os.execve(words[0], words, os.environ | {PLACED: "accelerate"} | threads(launch.processes))
    return None


def command(script: str, arguments: Sequence[str], processes: int) -> list[str]:
    """That runs a stage's script in so many processes."""
    # What `accelerate launch --multi_gpu` calls. On a CPU that would start one process, whatever it is told.
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [sys.executable, "-m", *(several if processes > 1 else []), f"stages.{script}", *arguments]
