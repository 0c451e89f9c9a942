"""The denoising loss over all timesteps as a function of a model: what a search can use without sampling."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from deme_core.components import Condition
from deme_core.data.examples import Examples, batches
from deme_core.denoising import denoising_loss, regression_target
from deme_core.seeds import SeedBlock, image_seed


class Batch(NamedTuple):
    """What the network gets, and what it should say."""

    noisy: torch.Tensor
    t: torch.Tensor
    condition: Condition
    target: torch.Tensor


class DenoisingLoss:
    """Mean of ‖target − prediction‖² (Eq. 3) over draws (x_0, ε, t), the same draws for every model.

    t is stratified over [0, T), a stratum a pair of draws, and antithetic: a pair has t and T − 1 − t, with one ε.
    """

    def __init__(self, noise_schedule: Any, examples: Examples, device: torch.device) -> None:
        """`examples` are none of the evaluation's held-out part."""
        self.schedule, self.examples, self.device = noise_schedule, examples, device

    def value(self, model: nn.Module, block: SeedBlock, first: int, count: int) -> float:
        """The loss of a model on `count` draws, counted from `first`."""
        model, total = model.to(self.device).eval(), torch.zeros((), device=self.device)
        with torch.inference_mode():
            for batch in self._batches(block, first, count):
                total += denoising_loss(model(batch.noisy, batch.t, **batch.condition).sample, batch.target).sum()
        return float(total / count)

    def gradient(
        self, model: nn.Module, block: SeedBlock, first: int, count: int
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """The same loss, and its gradient over each tensor that it depends on; the model stays as it is.

        Every batch ends with its backward pass, so that one graph is in memory, however many draws there are.
        """
        model, total = model.to(self.device).eval(), torch.zeros((), device=self.device)
        leaves = {key: value.requires_grad_() for key, value in model.state_dict().items()}  # they share its memory
        for batch in self._batches(block, first, count):
            prediction = functional_call(model, leaves, (batch.noisy, batch.t), dict(batch.condition)).sample
            loss = denoising_loss(prediction, batch.target).sum()
            (loss / count).backward()
            total += loss.detach()
        return float(total / count), {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}

    def _batches(self, block: SeedBlock, first: int, count: int) -> Iterator[Batch]:
        T, pairs = self.schedule.config.num_train_timesteps, -(-count // 2)
        generator = torch.Generator().manual_seed(image_seed(block, first))
        half = ((torch.arange(pairs) + torch.rand(pairs, generator=generator)) * T / pairs).long().clamp(max=T - 1)
        t = torch.stack([half, T - 1 - half], 1).flatten()[:count]
        index = torch.randint(len(self.examples), (count,), generator=generator)
        noise = self._noise(generator, pairs)
        for part in batches(count, self.examples.shape):
            x0, condition = self.examples.draw(index[part], generator)
            x0, condition = x0.to(self.device), {key: value.to(self.device) for key, value in condition.items()}
            eps, when = torch.stack(list(islice(noise, len(x0)))).to(self.device), t[part].to(self.device)
            target = regression_target(self.schedule, x0, eps, when)
            yield Batch(self.schedule.add_noise(x0, eps, when), when, condition, target)

    def _noise(self, generator: torch.Generator, pairs: int) -> Iterator[torch.Tensor]:
        """ε of one draw after the other, drawn when it is asked for; `generator` is left as if all had been."""
        before = generator.clone_state()
        for _ in range(pairs):
            torch.randn(self.examples.shape, generator=generator)
        return (eps for _ in range(pairs) for eps in [torch.randn(self.examples.shape, generator=before)] * 2)
