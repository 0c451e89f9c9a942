"""The null: random vectors as long as the task vectors, and images that are only matched in brightness and contrast."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deme_core.data.archive import PROTOCOL, read_images, write_archive
from deme_core.errors import InputError
from deme_core.merging.merge import write_merged
from deme_core.merging.random_vectors import write_random_vectors
from deme_core.merging.task_vectors import cosines
from deme_core.metrics.image_statistics import image_statistics
from deme_core.sampling.matched import match_images
from deme_core.tensors import read_tensors


def test_random_vectors_have_the_norms_of_the_task_vectors_and_nothing_else(
    pipeline: Path, vectors: list[Path], tmp_path: Path
) -> None:
    for draw in (1, 2):
        write_random_vectors(vectors, tmp_path / str(draw), seed=0, draw=draw)
    files = [tmp_path / "1" / file.name for file in vectors]
    for file, of in zip(files, vectors, strict=True):
        ours, theirs = read_tensors(file), read_tensors(of)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert float(value.norm()) == pytest.approx(float(theirs[key].norm()), rel=1e-5), key
    far = cosines([*files, *vectors, tmp_path / "2" / vectors[0].name])
    assert np.abs(far[: len(files), len(files) :]).max() < 0.3  # neither the experts nor the other draw
    write_random_vectors(vectors, tmp_path / "again", seed=0, draw=1)
    assert (tmp_path / "again" / vectors[0].name).read_bytes() == files[0].read_bytes()
    write_merged(pipeline, files, None, tmp_path / "merged", {})  # vectors of θ, as the experts' are


def test_matched_images_have_the_datas_mean_and_deviation(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randint(60, 200, (30, 2, 8, 8), generator=generator).to(torch.uint8)
    ours[:, 1] //= 2
    real = torch.randint(90, 150, (50, 2, 8, 8), generator=generator).to(torch.uint8)
    # archives hold one or three channels; two channels of this test go as two sets of grey images
    for c in (0, 1):
        samples, out = tmp_path / f"samples{c}", tmp_path / f"matched{c}"
        samples.mkdir()
        write_archive(samples, 0, ours[:, c : c + 1])
        (samples / PROTOCOL).write_text('{"images": 30, "seed_block": "EVALUATION"}')
        match_images(samples, real[:, c : c + 1], out)
        (found,) = read_images(out, 30)
        got, target = image_statistics([found]), image_statistics([real[:, c : c + 1]])
        assert got["mean"] == pytest.approx(target["mean"], abs=1e-3)
        assert got["deviation"] == pytest.approx(target["deviation"], rel=1e-2)
        before = ours[:, c].flatten(1).argsort(dim=1)
        after = found[:, 0].flatten(1)
        assert bool((after.gather(1, before).diff(dim=1) >= 0).all())  # a rising line, so no pixel changes its order


def test_images_of_one_value_cannot_be_matched(tmp_path: Path) -> None:
    write_archive(tmp_path, 0, torch.full((5, 1, 4, 4), 7, dtype=torch.uint8))
    (tmp_path / PROTOCOL).write_text('{"images": 5}')
    with pytest.raises(InputError, match="one value in all images"):
        match_images(tmp_path, torch.zeros(5, 1, 4, 4, dtype=torch.uint8), tmp_path / "out")
