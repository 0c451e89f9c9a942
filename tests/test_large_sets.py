"""Sets larger than memory."""

import os
from pathlib import Path

import pytest
import torch
from conftest import files_of, python, reads_proc

from deme_core.data.images import (
    DataParams,
    Images,
    load_part,
    new_pixels,
    pixels_hash,
    save_part,
)
from deme_core.data.sources import read_parts
from deme_core.errors import InputError
from deme_core.tensors import file_header

DIGITS = DataParams(source="digits", path=None, size=8, held_out=0.2)


def test_pixels_that_lie_in_a_file_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {}
    for limit in (2**30, 10):
        monkeypatch.setattr("deme_core.data.images.IN_MEMORY", limit)
        parts = read_parts(DIGITS)
        for part, images in parts.items():
            save_part(tmp_path / str(limit), part, images)
        written[limit] = files_of(tmp_path / str(limit)), pixels_hash(parts["heldout"].pixels)
    assert written[10] == written[2**30]


def test_a_file_of_pixels_that_the_disk_cannot_hold_is_refused(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"1 PB of pixels do not fit on the disk of \.checkpoints/, where "):
        new_pixels((10**6, 1, 10**6, 10**3))


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the size of the memory is asked for as on Unix")
def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    images = 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    layout = {"pixels": (torch.uint8, (images, 1, 2**10, 2**10)), "labels": (torch.int64, (images,))}
    with (tmp_path / "train.safetensors").open("wb") as file:  # of holes: it takes no disk
        file.truncate(file.write(file_header(layout)) + images * (2**20 + 8))
    loaded = load_part(tmp_path, "train")
    assert loaded.pixels.shape == (images, 1, 2**10, 2**10) and not loaded.pixels[-1].any()
    assert loaded.labels.dtype == torch.int64 and not loaded.labels.any()


MEMORY = """
import sys
from pathlib import Path
import torch
from deme_core.data.examples import load_examples

def own():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

load_examples(Path(sys.argv[1]), "heldout")  # what the first file of all takes
before, examples, generator = own(), load_examples(Path(sys.argv[1]), "train"), torch.Generator().manual_seed(0)
total = sum(float(examples.draw(torch.arange(k, k + 64), generator)[0].sum()) for k in range(0, len(examples), 64))
assert examples.sha256 and len(examples) * 3 * 64 * 64 == 2**20 * 96
print(own() - before)
"""

DIGITS = DataParams(source="digits", path=None, size=8, held_out=0.2)


@reads_proc
def test_examples_are_read_batch_by_batch(tmp_path: Path) -> None:
    pixels = torch.arange(2**20 * 96, dtype=torch.int32).to(torch.uint8).reshape(-1, 3, 64, 64)
    for part, images in (("train", pixels), ("heldout", pixels[:64])):
        save_part(tmp_path, part, Images(images, torch.zeros(len(images), dtype=torch.int64)))
    megabytes = float(python(MEMORY, tmp_path).stdout)
    assert megabytes < 48  # of 96; a batch takes 3 as floats
