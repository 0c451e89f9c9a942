"""A training that is told to end saves its state first: before a time limit or a preemption, or by `kill`."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # the second is what submitit has SLURM send before a time limit


class Stopping:
    """While it is entered, these signals are noted and end nothing by themselves.

    Python gives signals to the main thread alone: a training in another one notes none.
    """

    def __init__(self) -> None:
        self.came = list[int]()

    def __enter__(self) -> "Stopping":
        here = threading.current_thread() is threading.main_thread()
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS if here}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def end(self) -> NoReturn:
        """End this process as the signal would have done, so that who started it sees what it expects.

        Of several processes one may have had none: it ends by SIGTERM.
        """
        number = self.came[0] if self.came else signal.SIGTERM
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        sys.exit(128 + number)  # where another thread is the one that gets it, a moment later

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)
