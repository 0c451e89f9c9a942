"""Torn files and what a reader may make of them, for the tests of readers; DEME_FUZZ takes more examples."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES
from deme_core.errors import InputError

MOST_MEMORY = 10**9  # bytes beyond what is there before
STATUS = Path("/proc/self/status")
MORE = float(os.environ.get("DEME_FUZZ", "1"))

Reader = Callable[[Path, bytes], object]


def fuzz(examples: int) -> settings:
    healthy = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=max(1, int(examples * MORE)), suppress_health_check=healthy)


@st.composite
def torn(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """One of some files with a few pieces changed; of many a number in the header, where what is claimed stands."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        near = draw(st.sampled_from((16, 64, 512, len(data) or 1)))
        at = draw(st.integers(0, max(0, min(near, len(data)) - 1)))
        kind = draw(st.sampled_from(("byte", "number", "cut", "double", "insert", "end", "tail")))
        if kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            width = draw(st.sampled_from((2, 4, 8)))
            claimed = draw(st.sampled_from((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)))
            data[at : at + width] = (claimed % 2 ** (8 * width)).to_bytes(
                width, draw(st.sampled_from(("big", "little")))
            )
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "end":
            del data[at:]
        elif data:
            data[-1 - at % len(data)] = draw(st.integers(0, 255))
    return bytes(data)


def outcome(read: Reader, data: bytes) -> None:
    """Read a file of these bytes in a folder of its own."""
    before = new_peak()
    with TemporaryDirectory() as folder:
        try:
            read(Path(folder), data)
        except InputError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 2000
            message.encode()  # it can be printed
    assert peak() < before + MOST_MEMORY


def peak() -> int:
    """The most memory that this process has held, in bytes; ru_maxrss would be that of the process that started it.

    0 where there is no Linux to say it: what readers make of torn files is tested anywhere.
    """
    if not STATUS.is_file():
        return 0
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024


def new_peak() -> int:
    """Forget what earlier tests held: the memory of now."""
    if STATUS.is_file():
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def source(name: str, file: str, **options: object) -> Reader:
    def read(folder: Path, data: bytes) -> object:
        (folder / file).write_bytes(data)
        given = {"source": name, "path": str(folder if name in ("folder", "idx") else folder / file), "size": 8}
        return SOURCES[name].read(DataParams(**{**given, "held_out": 0.0, **options}))

    return read
