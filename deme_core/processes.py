"""Several processes of one stage, under `accelerate launch`: they share what takes long, and all take the same path."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import PartialState

PATIENCE = timedelta(days=1)  # that a process without work waits for the others; NCCL's own is ten minutes


def launched() -> bool:
    """Whether `accelerate launch` or torchrun started this process, maybe among others."""
    return "LOCAL_RANK" in os.environ


def partial_state() -> "PartialState":
    """This process among those of its launch; the only one where there was none.

    What is first made here stays: an Accelerator that came before would know neither a CPU's other processes nor
    PATIENCE.
    """
    from accelerate import PartialState  # half a second, which most of what imports this module need not wait

    on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    more = {"timeout": PATIENCE} if launched() else {}
    return PartialState(cpu=on_cpu, **more)


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return partial_state().is_main_process


def wait() -> None:
    """Until all processes have come here."""
    partial_state().wait_for_everyone()


def by_main(write: Callable[[], None]) -> None:
    """The main process writes, and the others wait until it has: no two write under one name."""
    if is_main():
        write()
    wait()


def agreed(values: Sequence[float]) -> list[float]:
    """The main process' values in all: GPUs may differ in a last bit, and a search must not part ways over it."""
    from accelerate.utils import broadcast

    if partial_state().num_processes == 1:
        return list(values)
    sent: torch.Tensor = broadcast(torch.tensor(values, dtype=torch.float64, device=partial_state().device))
    return sent.tolist()


def shared(make: Callable[[int, int], torch.Tensor], count: int, whole: int) -> torch.Tensor:
    """`make(0, count)`, of which each process makes a share; all get the whole.

    Args:
        make: (first, how many) -> rows [how many, …], how many >= 1.
        whole: rows that are made at a time; shares are multiples of it.
    """
    from accelerate.utils import gather

    process = partial_state()
    share = -(-count // (whole * process.num_processes)) * whole
    first = process.process_index * share
    rows = make(min(first, count - 1), max(1, min(share, count - first)))  # without a share: one row, thrown away below
    padded = torch.cat([rows, rows[:1].expand(share - len(rows), *rows.shape[1:])])
    everything: torch.Tensor = gather(padded.to(process.device))
    return everything[:count].cpu()
