"""What a merge will take: bytes, memory and time, before anything is written."""

import time

from deme_core.amounts import amount
from deme_core.merging.hashing import AHEAD
from deme_core.merging.merge import Merge
from deme_core.merging.methods import METHODS
from deme_core.merging.output import file_sizes
from deme_core.tensor_files import PIECE
from deme_core.tensors import nbytes

PROCESS = 250 * 10**6  # bytes of Python with torch loaded
PIECES = 8  # alive at once, where a method works on pieces
SAMPLE = 256 * 10**6  # bytes of input that the speed is measured on


def plan(merge: Merge) -> str:
    """A line a fact. The speed is that of merging the first tensors here and now; what is on disk stays as it is."""
    inputs = sum(map(merge.input_bytes, merge.layout))
    files = file_sizes(merge.layout, merge.max_shard_size, merge.recipe())
    speed = read_and_merge_speed(merge)
    return "\n".join([
        f"inputs   {amount(inputs, 'B')} in {len(merge.inputs)} models, {len(merge.layout)} tensors each",
        *(f"output   {name} {size} bytes ({amount(size, 'B')})" for name, size in files.items()),
        f"memory   about {amount(peak_memory(merge), 'B')} at most",
        f"time     about {inputs / speed:.0f} s to read and merge at {amount(speed, 'B/s')}, and that of writing to"
        " your disk",
    ])  # fmt: skip


def peak_memory(merge: Merge) -> int:
    """Bytes: Python with torch, and the float32 tensors, or pieces of them, that are alive at once."""
    largest = max(nbytes(*entry) // entry[0].itemsize for entry in merge.layout.values())
    copies = METHODS[merge.params.method].copies
    elements = (copies + AHEAD) * largest if copies else (PIECES + AHEAD) * PIECE
    return PROCESS + 4 * elements


def read_and_merge_speed(merge: Merge) -> float:
    """Bytes of input a second."""
    start, done = time.perf_counter(), 0
    for key in sorted(merge.layout):
        for _ in merge.pieces(key):
            pass
        done += merge.input_bytes(key)
        if done >= SAMPLE:
            break
    for tensors in merge.inputs:
        tensors.hash.hexdigest()  # waits for the threads
    return done / (time.perf_counter() - start)
