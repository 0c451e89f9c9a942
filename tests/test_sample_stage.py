"""The stage sample, and the held-out loss of what it samples from."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import N, files_of, sampler_params, write_pipeline
from diffusers import DDPMScheduler, UNet2DModel
from sampled import CPU, SCHEDULE, fake

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.data.archive import read_images, read_protocol
from deme_core.data.examples import Pixels
from deme_core.denoising import single
from deme_core.errors import InputError
from deme_core.sampling.generate import Sampler, ensemble
from deme_core.sampling.sample import sample_model
from deme_core.seeds import SeedBlock
from deme_core.timesteps import TimestepRanges
from deme_core.training.range_losses import image_losses, range_losses

# The stage


def test_samples_of_a_model_are_images_protocol_and_preview(pipeline: Path, empty_folder: Path, twelve: tuple) -> None:
    sampler, denoise, _ = twelve
    params = sampler_params(block=4)
    for out in ("a", "b"):
        sample_model(pipeline, pipeline, params, 10, empty_folder / out)
    assert list(files_of(empty_folder / "a")) == ["0000.zip", "preview.png", "protocol.json"]
    assert files_of(empty_folder / "a") == files_of(empty_folder / "b")
    assert list((empty_folder / ".checkpoints").iterdir()) == []
    written = torch.cat(list(read_images(empty_folder / "a", 10)))
    assert torch.equal(written, sampler.images(denoise, SeedBlock.EVALUATION, 0, 10))
    protocol = read_protocol(empty_folder / "a")
    assert protocol["images"] == 10
    assert protocol["seed_block"] == "EVALUATION"
    assert protocol["sampler"] == asdict(params)
    assert protocol["parameters"] == UNet2DModel.from_pretrained(pipeline / "unet").num_parameters()


def test_the_ensemble_is_sampled_from_the_folder_of_the_experts(
    pipeline: Path, experts: list[Path], empty_folder: Path
) -> None:
    params = sampler_params(block=4)
    sample_model(experts[0].parent, pipeline, params, 8, empty_folder / "out")
    denoise = ensemble([load_denoiser(expert) for expert in experts], TimestepRanges.equal(N, 1000), CPU)
    expected = Sampler.of(pipeline, params, CPU).images(denoise, SeedBlock.EVALUATION, 0, 8)
    assert torch.equal(torch.cat(list(read_images(empty_folder / "out", 8))), expected)
    parameters = sum(value.numel() for value in load_denoiser(experts[0]).parameters())
    assert read_protocol(empty_folder / "out")["parameters"] == N * parameters


def test_a_folder_without_experts_is_refused(pipeline: Path, empty_folder: Path) -> None:
    with pytest.raises(InputError, match="no such file; a denoiser folder holds"):
        sample_model(empty_folder, pipeline, sampler_params(), 4, empty_folder / "out")
    assert not (empty_folder / "out").exists()


def test_samples_without_a_protocol_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no protocol\.json; sample the images again"):
        read_protocol(tmp_path)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}),
        ("unet/config.json", {"flip_sin_to_cos": False}),
    ],
)
def test_unfinished_samples_of_another_config_are_not_taken_over(
    config: str, change: dict[str, Any], pipeline: Path, pipeline_copy: Path, empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of another noise schedule, or of another network with the same weights."""
    file = pipeline_copy / config
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with monkeypatch.context() as patch:
        patch.setattr("deme_core.sampling.sample.shutil.move", None)  # stops after the archives are written
        with pytest.raises(TypeError):
            sample_model(pipeline, pipeline, sampler_params(), 4, empty_folder / "cut")
    sample_model(pipeline_copy, pipeline_copy, sampler_params(), 4, empty_folder / "out")
    sampler = Sampler.of(pipeline_copy, sampler_params(), CPU)
    expected = sampler.images(single(load_denoiser(pipeline_copy / "unet"), CPU), SeedBlock.EVALUATION, 0, 4)
    assert torch.equal(next(read_images(empty_folder / "out", 4)), expected)


# Held-out loss on the ranges


def test_the_loss_of_a_denoiser_that_says_nothing_is_that_of_the_noise(digits: torch.Tensor) -> None:
    ranges = TimestepRanges.equal(4, 1000)
    schedule = DDPMScheduler(**SCHEDULE)
    losses = range_losses(image_losses(lambda x, t: torch.zeros_like(x), schedule, Pixels(digits), ranges, 4, CPU))
    assert losses == pytest.approx([1.0] * 4, abs=0.05)


def test_a_denoiser_is_asked_on_each_range_for_its_timesteps_alone(digits: torch.Tensor) -> None:
    ranges, seen = TimestepRanges((0, 10, 500, 1000)), []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    range_losses(image_losses(denoise, DDPMScheduler(**SCHEDULE), Pixels(digits), ranges, 5, CPU))
    for i, t in enumerate(seen, 1):
        low, high = ranges.range(i)
        assert low <= t.min()
        assert t.max() < high
        assert len(t) == 5 * 64
    assert len(seen) == 3
    shares = torch.histc(seen[2].double(), bins=5, min=500, max=1000)
    assert shares.tolist() == [64] * 5  # stratified


def test_every_model_meets_the_same_noise(pipeline: Path, digits: torch.Tensor) -> None:
    schedule, ranges = load_noise_schedule(pipeline), TimestepRanges.equal(2, 1000)
    denoise = single(load_denoiser(pipeline / "unet"), CPU)
    first, again = (range_losses(image_losses(denoise, schedule, Pixels(digits), ranges, 2, CPU)) for _ in range(2))
    assert first == again
    assert first[0] != first[1]


def test_a_loss_that_is_not_finite_is_refused_with_its_model_and_range(digits: torch.Tensor) -> None:
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t[:, None, None, None] == t.max(), math.nan if t.max() >= 500 else 0.0, x)

    ranges = TimestepRanges.equal(2, 1000)
    with pytest.raises(InputError, match=r"^expert 1: its loss on range 2, timesteps \[500, 1000\), is not finite"):
        range_losses(image_losses(denoise, DDPMScheduler(**SCHEDULE), Pixels(digits), ranges, 2, CPU, "expert 1"))


def test_an_empty_held_out_part_has_no_loss(digits: torch.Tensor) -> None:
    ranges = TimestepRanges.equal(2, 1000)
    losses = range_losses(image_losses(fake, DDPMScheduler(**SCHEDULE), Pixels(digits[:0]), ranges, 2, CPU))
    assert len(losses) == 2
    assert all(map(math.isnan, losses))


def test_unfinished_work_is_found_by_another_process_whatever_the_hash_of_its_strings(tmp_path: Path) -> None:
    """A scheduler's config that names few of its keys: diffusers then notes the others, in the order of a set."""
    config = write_pipeline(tmp_path / "pipeline") / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}))
    code = (
        "import json, sys; from pathlib import Path; from deme_core.checkpoints import *;"
        "print(json.dumps(schedule_identity(load_noise_schedule(Path(sys.argv[1])))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pipeline")], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
    assert json.loads(found.pop())["num_train_timesteps"] == 1000
