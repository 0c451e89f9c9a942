"""What only a CUDA device can show; `pytest -m gpu` runs it there. Steps are watched by PyTorch's own alarm."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import REPOSITORY, job_of, synchronisation_is_an_error, training_params

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.device import best_device
from deme_core.search.loss import DenoisingLoss
from deme_core.search.objective import MergedLoss, MergedModel
from deme_core.seeds import SeedBlock
from deme_core.tensors import read_tensors
from deme_core.training import loop
from deme_core.training.job import Curve
from deme_core.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """One precision and one device a process is accelerate's rule."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(pipeline: Path, digits: torch.Tensor, folder: Path, **changes: Any) -> tuple[Curve, dict[str, torch.Tensor]]:
    student = load_denoiser(pipeline / "unet")
    params = training_params(**{"projection": "none"} | changes)
    curve = train(
        student, load_noise_schedule(pipeline), Pixels(digits), job_of(params), folder,
        teacher=copy.deepcopy(student) if params.consistency else None,
    )  # fmt: skip
    return curve, {key: value.cpu() for key, value in student.state_dict().items()}


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_waits_for_nothing(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, resumed: bool
) -> None:
    """From the second step on: at the first one tables of the schedule and states of the optimizer are made."""
    settings = {"mixed_precision": precision, "gradient_accumulation": 2, "horizontal_flip": True}
    if resumed:
        run(pipeline, digits, tmp_path / "state", **settings)
        AcceleratorState._reset_state()
        state_file = next(iter((tmp_path / "state").glob("*.safetensors")))
        assert state_file.is_file()
    step, ema, seen = loop._Training._step, loop._Training._step_ema, []

    def watched(self: Any, number: int, stream: Any) -> None:
        if not seen:
            step(self, number, stream)
            ema(self)
        else:
            with synchronisation_is_an_error():
                step(self, number, stream)
                ema(self)
        seen.append(number)

    monkeypatch.setattr(loop._Training, "_step", watched)
    monkeypatch.setattr(loop._Training, "_step_ema", lambda self: None)
    # A finished training resumes nothing: four more steps of the same state.
    run(pipeline, digits, tmp_path / "state", **settings | {"iterations": 16 if resumed else 12})
    assert len(seen) == (4 if resumed else 12)


@pytest.mark.parametrize("offload", [False, True])
def test_a_resume_is_exact(pipeline: Path, digits: torch.Tensor, tmp_path: Path, offload: bool) -> None:
    """The same kernels in the same order, and every number from the CPU's generators: equal to the bit."""
    whole = run(pipeline, digits, tmp_path / "whole", ema_offload=offload)
    run(pipeline, digits, tmp_path / "parts", ema_offload=offload, iterations=4)
    assert run(pipeline, digits, tmp_path / "parts", ema_offload=offload)[0] == whole[0]
    one, two = (read_tensors(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_an_offloaded_ema_is_the_one_that_stays(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    kept, away = (run(pipeline, digits, tmp_path / str(offload), ema_offload=offload)[1] for offload in (False, True))
    assert all(torch.equal(kept[key], away[key]) for key in kept)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_stays_close_to_float32(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, precision: str
) -> None:
    exact, _ = run(pipeline, digits, tmp_path / "exact")
    AcceleratorState._reset_state()
    rounded, weights = run(pipeline, digits, tmp_path / "half", mixed_precision=precision)
    assert [row["loss"] for row in rounded] == pytest.approx([row["loss"] for row in exact], rel=0.05)
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_a_gpu_trains_on_what_a_cpu_trains_on(
    pipeline: Path, digits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float results differ in their last bits; all that is random is the same."""
    gpu, _ = run(pipeline, digits, tmp_path / "gpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    cpu, _ = run(pipeline, digits, tmp_path / "cpu")
    assert [row["loss"] for row in gpu] == pytest.approx([row["loss"] for row in cpu], rel=1e-3)


def test_the_memory_of_a_search_by_gradient_does_not_grow_with_the_images(
    pipeline: Path, vectors: list[Path], digits: torch.Tensor
) -> None:
    denoising = DenoisingLoss(load_noise_schedule(pipeline), Pixels(digits), best_device())
    loss = MergedLoss(MergedModel(pipeline, vectors), denoising)

    def peak(images: int) -> int:
        torch.cuda.reset_peak_memory_stats()
        loss.gradient([0.5] * len(vectors), SeedBlock.SEARCH, 0, images)
        return torch.cuda.max_memory_allocated()

    peak(1000)  # what cuDNN and cuBLAS allocate once
    assert peak(8000) <= 1.05 * peak(1000)


def test_float32_is_float32(pipeline: Path) -> None:
    """A product of 1 + 2⁻¹² is 1 in TF32."""
    device = best_device()
    x = torch.full((1, 64, 8, 8), 1 + 2.0**-12, device=device)
    conv = torch.nn.Conv2d(64, 64, 1, bias=False).to(device)
    torch.nn.init.constant_(conv.weight, 1 / 64)
    assert torch.allclose(conv(x), x, rtol=1e-6, atol=0)
    weight = torch.full((64, 64), 1 / 64, device=device)
    assert torch.allclose(x.permute(0, 2, 3, 1) @ weight, x.permute(0, 2, 3, 1), rtol=1e-6, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_share_a_training(tmp_path: Path) -> None:
    """The very tests of two processes on a CPU, which launch the stages' commands, with a GPU each."""
    folder = REPOSITORY / "tests" / "test_shared_training.py"
    environment = os.environ | {"DEME_TEST_GPUS": "0,1"}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(folder), "-k", "baseline or killed"], env=environment, check=True
    )
