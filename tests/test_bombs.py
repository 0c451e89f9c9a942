"""Small files that unpack to much, read in a process of its own, whose peak is theirs."""

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
from conftest import reads_proc
from image_files import idx_bytes

MOST_MEMORY = 10**9  # bytes beyond what the imports take
ZEROS = 5 * 2**28  # bytes

READ_BOMBS = """
import sys
from pathlib import Path
from deme_core.data.images import DataParams
from deme_core.data.sources import SOURCES
from deme_core.metrics.statistics_files import import_statistics

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

root = Path(sys.argv[1])
readers = {"a.npz": lambda path: import_statistics(path, 4, root)}
for name, path in (("folder", "pictures"), ("zip", "a.zip"), ("idx", "idx")):
    readers[path] = lambda path, name=name: SOURCES[name].read(
        DataParams(source=name, path=str(path), size=8, held_out=0.0, unreadable="skip"))
start = peak()
for name, read in readers.items():
    try:
        read(root / name)
        said = "read"
    except Exception as error:
        said = f"{type(error).__name__} {error}"
    print(f"{name}\t{peak() - start}\t{said}")
"""


def write_bombs(root: Path) -> None:
    piece = bytes(2**24)
    packer = zlib.compressobj(1)
    side = 10_600  # a picture just small enough to be read
    lines = b"".join(packer.compress(bytes(side * 4 + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b""))
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    for folder in ("pictures", "idx"):
        (root / folder).mkdir()
    for name in ("a.png", "b.png", "c.png"):  # decoded by different threads
        (root / "pictures" / name).write_bytes(picture)
    write_packed(root / "a.zip", "a.bmp", b"")
    with gzip.open(root / "idx" / "train-images", "wb", 1) as file:
        file.write(struct.pack(">IIII", 0x803, ZEROS, 1, 1))
        for _ in range(ZEROS // len(piece)):
            file.write(piece)
    (root / "idx" / "train-labels").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (ZEROS // 8,)})
    write_packed(root / "a.npz", "mu.npy", header.getvalue())


def write_packed(path: Path, name: str, head: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as file:
        file.write(head)
        for _ in range(ZEROS // 2**24):
            file.write(bytes(2**24))


@reads_proc
def test_a_bomb_takes_no_gigabyte(tmp_path: Path) -> None:
    write_bombs(tmp_path)
    run = subprocess.run([sys.executable, "-c", READ_BOMBS, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.split("\t") for line in run.stdout.splitlines() if line.count("\t") == 2]
    said = {name: message for name, _, message in rows}
    assert said.pop("pictures") == "read"
    assert said.keys() == {"a.npz", "a.zip", "idx"} and all(m.startswith("InputError") for m in said.values()), said
    assert max(int(peak) for _, peak, _ in rows) < MOST_MEMORY, rows
