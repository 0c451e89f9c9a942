"""How far what takes long has come: a bar on a terminal; in a log, which keeps every update, a line now and then."""

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

from tqdm.auto import tqdm

EVERY = 30.0  # seconds between two lines
LINE = "{desc}: {percentage:.0f} %, {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Lines:
    """What of tqdm's bar is used here, as whole lines: one every EVERY seconds, and one at the end."""

    def __init__(self, iterable: Iterable[Any] = (), *, desc: str, total: float | None, initial: float = 0, **how: Any):
        """`how`: what else `tqdm.format_meter` takes, such as unit and unit_scale."""
        self.iterable, self.n, self.postfix = iterable, initial, ""
        self.how = {"prefix": desc, "total": total, "initial": initial, "bar_format": LINE} | how
        self.start = self.last = monotonic()
        self.said: float | None = 0 if total == 0 else None  # n of the last line; of no work there is none

    def __iter__(self) -> Iterator[Any]:
        with self:
            for one in self.iterable:
                yield one
                self.update()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """`n` more are done."""
        self.n += n
        if monotonic() - self.last >= EVERY:
            self._print()

    def set_postfix(self, **values: str) -> None:
        """What stands at the end of the next line."""
        self.postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def close(self) -> None:
        """Say how far it came."""
        if self.n != self.said:
            self._print()

    def _print(self) -> None:
        self.last, self.said = monotonic(), self.n
        line = tqdm.format_meter(self.n, elapsed=self.last - self.start, postfix=self.postfix, **self.how)
        print(line, file=sys.stderr, flush=True)


def progress(iterable: Any = None, *, desc: str, unit: str, disable: bool = False, **how: Any) -> Any:
    """`iterable`, or with a `total` alone what is to be updated and closed, with its progress on stderr.

    Args:
        disable: says nothing, in a process that is not the main one.
        how: as tqdm takes it: total, initial, unit_scale.
    """
    if disable or sys.stderr.isatty():
        return tqdm(iterable, desc=desc, unit=unit, disable=disable, **how)
    total = how.pop("total", None)
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    return Lines(() if iterable is None else iterable, desc=desc, total=total, unit=unit, **how)
