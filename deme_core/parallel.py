"""Whole pieces of work, as many at a time as torch has threads, each on one core, their results in order.

Torch's own threads share out every operation, and spin until the last of them is done: beside one busy core a network
of a few thousand weights then takes 4 to 30 times as long. Pieces such as blocks of images wait for nobody, and what
they give does not depend on the number of cores.

Torch has as many threads as there are cores, or OMP_NUM_THREADS; of the processes of a launch each has its share, since
torchrun and `accelerate launch` set that variable where the user has not.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

PIECE = 8  # images that make a piece where one alone takes little
AHEAD = 2  # pieces for each worker that are in memory at once, done or not
CPU = torch.device("cpu")
Piece = TypeVar("Piece")
Result = TypeVar("Result")


@contextmanager
def torch_threads(count: int | None, *, pieces: int | None = None) -> Iterator[None]:
    """Torch's own threads, while all cores, or `pieces` of them, stay for pieces of work.

    With one of them nothing depends on the number of cores: a sum over several has other last digits.

    Args:
        count: None: one for each core.
    """
    before = torch.get_num_threads(), _WORKERS.kept
    cores = _WORKERS.cores()
    _WORKERS.kept = pieces or cores
    torch.set_num_threads(count or cores)
    try:
        yield
    finally:
        _WORKERS.kept = before[1]
        torch.set_num_threads(before[0])


def in_order(
    call: Callable[[Piece], Result], pieces: Iterable[Piece], device: torch.device = CPU, *, ahead: int = 0
) -> Iterator[Result]:
    """`call(piece)` of all pieces, one after the other in their order, each of which a worker has computed on one core.

    The pieces are taken in the thread of the caller, few before they are needed. An exception of one ends all. A plain
    `map` where `call` computes on another device, is made by a worker itself, or where there is one core.

    Args:
        call: enters what torch knows for a thread alone, as `inference_mode` and `autocast`, itself.
        ahead: so many pieces at least are under way, by one worker if there is one core: for a caller that waits for
            another device meanwhile.
    """
    alone = not _WORKERS.users and _WORKERS.cores() == 1 and not ahead
    if alone or device.type != "cpu" or _WORKERS.here():
        yield from map(call, pieces)
        return
    with _WORKERS as workers:
        under_way: deque[Future[Result]] = deque()
        try:
            for piece in pieces:
                under_way.append(workers.submit(call, piece))
                if len(under_way) >= max(ahead, AHEAD * workers.count):
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


class _Workers:
    """The workers of a process, the same for calls within calls; while there are any, torch has no other threads."""

    def __init__(self) -> None:
        self.users, self.count, self.before = 0, 1, 1
        self.kept: int | None = None
        self.thread = threading.local()

    def cores(self) -> int:
        """That pieces are shared out among."""
        return self.kept or torch.get_num_threads()

    def here(self) -> bool:
        """Whether this thread is a worker."""
        return getattr(self.thread, "works", False)

    def __enter__(self) -> "_Workers":
        if not self.users:
            self.count, self.before = self.cores(), torch.get_num_threads()
            torch.set_num_threads(1)
            self.pool = ThreadPoolExecutor(self.count, initializer=self._begin)
        self.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.before)

    def submit(self, call: Callable[[Piece], Result], piece: Piece) -> Future[Result]:
        return self.pool.submit(call, piece)

    def _begin(self) -> None:
        self.thread.works = True
        torch.set_num_threads(1)


_WORKERS = _Workers()
