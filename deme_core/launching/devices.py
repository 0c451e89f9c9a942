"""What jobs side by side share: the cores, and the GPUs."""

import os
from collections.abc import Sequence

VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
PLACED = "DEME_PLACED"  # in the environment of what runs where launch.yaml wants it


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        return [name for name in names if name not in ("", "-1")][: torch.cuda.device_count()]
    return [str(k) for k in range(torch.cuda.device_count())]


def share(slot: int, jobs: int, devices: Sequence[str]) -> dict[str, str]:
    """What the environment of a job says: its cores, unless the user has said it, and its GPUs, where there are any.

    One GPU each, or of more GPUs than jobs as many as each can have for itself.
    """
    each = max(1, len(devices) // jobs)
    first = slot * each % max(1, len(devices))
    environment = {THREADS: os.environ.get(THREADS) or str(max(1, cores() // jobs))}
    return environment | ({VISIBLE: ",".join(devices[first : first + each])} if devices else {})


def threads(processes: int) -> dict[str, str]:
    """Of each of several processes: its share of those that this one may have."""
    return {THREADS: str(max(1, int(os.environ.get(THREADS) or cores()) // processes))}
