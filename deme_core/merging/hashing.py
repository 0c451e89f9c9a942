"""Tensors that are hashed and checked while they are merged, so that every input is read once.

A hash is as slow as everything else together, so it runs in threads beside the merge.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import torch

from deme_core.errors import InputError
from deme_core.tensor_files import Tensors, as_bytes
from deme_core.tensors import hash_line

AHEAD = 3  # pieces that may wait for their hash: this, and not N, bounds the memory


class Hasher:
    """Threads that feed digests."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.room = pool, BoundedSemaphore(AHEAD)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Hasher"]:
        """A hasher with two threads, which end with the context."""
        with ThreadPoolExecutor(2) as pool:
            yield cls(pool)


class TensorHash:
    """The `weights_hash` of tensors that come one after the other, in the order of names, whole or in pieces."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher, self._digest = hasher, hashlib.sha256()
        self._last: Future[None] | None = None

    def begin(self, key: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Announce a tensor."""
        self._submit(hash_line(key, dtype, shape))

    def update(self, piece: torch.Tensor) -> None:
        """Its next elements. They must not change any more."""
        self._submit(as_bytes(piece))

    def hexdigest(self) -> str:
        """The hash of everything so far."""
        if self._last:
            self._last.result()
        return self._digest.hexdigest()

    def _submit(self, data: Any) -> None:
        self._hasher.room.acquire()
        self._last = self._hasher.pool.submit(self._feed, data, self._last)

    def _feed(self, data: Any, before: Future[None] | None) -> None:
        try:
            if before:
                before.result()
            self._digest.update(data)
        finally:
            self._hasher.room.release()


class HashedTensors(Tensors):
    """Tensors whose elements are each read once, in the order of names: hashed and refused if not finite."""

    def __init__(self, path: Path, hasher: Hasher) -> None:
        super().__init__(path)
        self.hash = TensorHash(hasher)

    def flat(self, key: str, start: int, stop: int) -> torch.Tensor:
        """The elements [start, stop) of a tensor; they must not be changed in place, for they are being hashed."""
        value = super().flat(key, start, stop)
        if not all_finite(value):
            raise InputError(f"{self.path}: '{key}' holds NaN or infinite values; the checkpoint is broken")
        if start == 0:
            self.hash.begin(key, *self.layout[key])
        self.hash.update(value)
        return value


def all_finite(value: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; without the copies that isfinite makes."""
    return value.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(value))
