"""The rows of a batch: the shares of all processes are the batch of one, on a GPU as on a CPU."""

from typing import Any

import pytest
import torch
from conftest import job_of, training_params

from deme_core.data.examples import Latents, Pixels
from deme_core.errors import InputError
from deme_core.training.batches import Batches


def latents(n: int) -> Latents:
    generator = torch.Generator().manual_seed(0)
    moments = {
        key: torch.randn(n, 2, 4, 4, generator=generator) for key in ("mean", "std", "mean_flipped", "std_flipped")
    }
    captions = {"captions": torch.arange(1, 2 * n + 1), "first": torch.arange(0, 2 * n + 1, 2)}
    return Latents(moments | captions | {"embeddings": torch.randn(2 * n + 1, 3, 5, generator=generator)})


@pytest.mark.parametrize("kind", ["pixels", "latents"])
@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(digits: torch.Tensor, kind: str, processes: int) -> None:
    examples = Pixels(digits) if kind == "pixels" else latents(64)
    params = training_params(horizontal_flip=True, caption_dropout=0.3, antithetic=True)

    def batches(rank: int, of: int) -> Batches:
        return Batches(examples, job_of(params), rank, of)

    for at in ((1, 0), (3, 1), (9, 0)):
        whole = batches(0, 1).draw(at)
        parts = [batches(rank, processes).draw(at) for rank in range(processes)]
        for name in ("x0", "noise", "t"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
        for key, value in whole.condition.items():
            assert torch.equal(torch.cat([part.condition[key] for part in parts]), value)
    assert whole.condition.keys() == ({"encoder_hidden_states"} if kind == "latents" else set())


def test_dropout_and_noise_have_seeds_of_their_own(digits: torch.Tensor) -> None:
    """From one seed the first draws of both coincide."""
    made = [Batches(Pixels(digits), job_of(training_params()), rank, 2) for rank in (0, 1)]
    dropout = []
    for batches in made:
        batches.seed_dropout(1, 0)
        dropout.append(torch.rand(8))
    noise = torch.rand(8, generator=torch.Generator().manual_seed(made[0].step_seed(1, 0, 0)))
    assert len({tuple(draw.tolist()) for draw in (*dropout, noise)}) == 3


def test_an_uneven_share_is_refused_before_anything_is_drawn(digits: torch.Tensor) -> None:
    with pytest.raises(InputError, match="batch_size = 8: must be a multiple of the 3 processes"):
        Batches(Pixels(digits), job_of(training_params()), 0, 3)


def test_a_gpu_gets_the_batches_that_a_cpu_gets(digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that draws ahead changes neither order nor content; without a GPU its copies stay where they are."""
    batches = Batches(Pixels(digits), job_of(training_params(gradient_accumulation=2)), 0, 1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda value: value)
    monkeypatch.setattr(torch.Tensor, "to", lambda value, *args, **options: value)
    gpu: Any = list(batches.stream(5, torch.device("cuda")))
    monkeypatch.undo()
    cpu = list(batches.stream(5, torch.device("cpu")))
    assert len(gpu) == len(cpu) == 2 * (12 - 4)
    for one, other in zip(gpu, cpu, strict=True):
        assert torch.equal(one.x0, other.x0) and torch.equal(one.noise, other.noise) and torch.equal(one.t, other.t)
