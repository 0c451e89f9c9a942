"""The losses of Eq. 2-5 against numbers worked by hand, and the teacher that they may call but never change."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import job_of, never, training_params
from diffusers import DDPMScheduler
from torch import nn

from deme_core.checkpoints import load_denoiser, load_noise_schedule
from deme_core.data.examples import Pixels
from deme_core.denoising import consistency_loss, denoising_loss, regression_target
from deme_core.timesteps import TimestepRanges
from deme_core.training.loop import train


def test_losses_by_hand() -> None:
    prediction = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    target = torch.tensor([[1.0, 0.0, 3.0, 5.0], [1.0, -1.0, 3.0, 0.5]]).view(2, 1, 2, 2)
    expected = torch.tensor([(4 + 1) / 4, (1 + 1 + 9 + 0.25) / 4])
    assert torch.equal(denoising_loss(prediction, target), expected)
    assert torch.equal(consistency_loss(prediction, target), expected)


def test_the_mean_runs_over_channels_and_pixels() -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    one = zeros.clone()
    one[0, 2, 1, 1] = 6.0
    assert denoising_loss(one, zeros).tolist() == [36 / 48, 0.0]


def test_losses_of_half_precision_are_formed_in_float32() -> None:
    prediction, target = torch.full((1, 1, 2, 2), 300.0), torch.zeros(1, 1, 2, 2)
    assert denoising_loss(prediction.half(), target.half()).item() == 90_000.0  # beyond float16


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_regression_target_is_the_closed_form(kind: str) -> None:
    schedule = DDPMScheduler(prediction_type=kind, beta_start=1e-4, beta_end=0.02)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator)
    t = torch.tensor([0, 499, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    signal = (1 - betas).cumprod(0)[t].view(3, 1, 1, 1)  # ᾱ_t
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * x0
    expected = {"epsilon": noise, "sample": x0, "v_prediction": velocity}[kind]
    torch.testing.assert_close(regression_target(schedule, x0, noise, t).double(), expected.double(), rtol=0, atol=1e-5)


class Constant(nn.Module):
    """A denoiser whose prediction is its one parameter everywhere, so that a loss can be worked by hand."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        self.seen.append((x.detach().clone(), t.clone()))
        return SimpleNamespace(sample=self.value.expand_as(x))


def train_constant(
    tmp_path: Path, teacher: nn.Module | None, consistency: float, loss_weights: torch.Tensor | None = None
) -> tuple[Constant, dict[str, float]]:
    """One step on black images (x_0 = −1) whose target is x_0 itself; the row of the curve."""
    student = Constant(0.5)
    params = training_params(
        iterations=1, log_every=1, checkpoint_every=1, consistency=consistency, projection="none"
    )  # fmt: skip
    curve = train(
        student, DDPMScheduler(prediction_type="sample"), Pixels(torch.zeros(16, 1, 8, 8, dtype=torch.uint8)),
        job_of(params, loss_weights=loss_weights), tmp_path / "state", teacher=teacher,
    )  # fmt: skip
    return student, curve[0]


@pytest.mark.parametrize("consistency", [1.0, 0.25])
def test_the_loss_is_equation_5(tmp_path: Path, consistency: float) -> None:
    _, row = train_constant(tmp_path, Constant(2.0), consistency)
    assert row["denoising"] == (0.5 + 1) ** 2
    assert row["consistency"] == (0.5 - 2) ** 2
    assert row["loss"] == 2.25 + consistency * 2.25


def test_the_teacher_sees_the_very_inputs_of_the_student(tmp_path: Path) -> None:
    teacher = Constant(2.0)
    student, _ = train_constant(tmp_path, teacher, 1.0)
    (x, t), (teacher_x, teacher_t) = student.seen[0], teacher.seen[0]
    assert torch.equal(x, teacher_x)
    assert torch.equal(t, teacher_t)
    assert len(student.seen) == len(teacher.seen) == 1


def test_without_consistency_the_teacher_is_never_called(tmp_path: Path) -> None:
    teacher = Constant(2.0)
    teacher.forward = never
    _, row = train_constant(tmp_path, teacher, 0.0)
    assert row["loss"] == row["denoising"] == 2.25
    assert row["consistency"] == 0
    _, again = train_constant(tmp_path / "none", None, 0.0)
    assert again == row


def test_each_samples_loss_has_the_weight_of_its_timestep(tmp_path: Path) -> None:
    weights = torch.linspace(0, 2, 1000, dtype=torch.float64)
    student, row = train_constant(tmp_path, Constant(2.0), 0.25, weights)
    ((_, t),) = student.seen
    assert len(t.unique()) > 4
    mean = float(weights[t].mean())
    assert row["denoising"] == pytest.approx(mean * (0.5 + 1) ** 2, rel=1e-6)
    assert row["consistency"] == pytest.approx(mean * (0.5 - 2) ** 2, rel=1e-6)
    assert row["loss"] == pytest.approx(1.25 * mean * 2.25, rel=1e-6)


class Table(nn.Module):
    """A denoiser with one parameter a timestep, so that a gradient shows which timesteps it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1000))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.values[t].view(-1, 1, 1, 1).expand_as(x))


def test_where_the_weight_is_0_nothing_is_learned(tmp_path: Path) -> None:
    """Also for the consistency loss: 20 steps of 64 draws from the full range reach most of the 1,000 timesteps."""
    weights, teacher = torch.zeros(1000), Table()
    weights[250:500] = 1.0
    teacher.values.data.fill_(1.0)
    moved = {}
    for name, chosen in (("weighted", weights), ("plain", None)):
        student = Table()
        params = training_params(iterations=20, batch_size=64, projection="none", weight_decay=0.0)
        train(
            student, DDPMScheduler(prediction_type="sample"), Pixels(torch.full((64, 1, 8, 8), 255, dtype=torch.uint8)),
            job_of(params, ranges=TimestepRanges.equal(1, 1000), loss_weights=chosen), tmp_path / name, teacher=teacher,
        )  # fmt: skip
        moved[name] = student.values.detach() != 0
    assert int(moved["plain"].sum()) > 600
    assert torch.equal(moved["weighted"], moved["plain"] & (weights > 0))


def test_training_leaves_the_teacher_as_it_is(pipeline: Path, digits: torch.Tensor, tmp_path: Path) -> None:
    student = load_denoiser(pipeline / "unet")
    teacher = copy.deepcopy(student).train()
    before = copy.deepcopy(teacher.state_dict())
    train(
        student, load_noise_schedule(pipeline), Pixels(digits), job_of(training_params(ema_decay=0.1)),
        tmp_path / "state", teacher=teacher,
    )  # fmt: skip
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not torch.equal(student.conv_in.weight, before["conv_in.weight"])
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
