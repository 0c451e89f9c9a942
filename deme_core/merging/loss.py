"""The denoising loss over all timesteps as a function of a model: what a search can use without sampling."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from deme_core.components import Condition
from deme_core.data.examples import Examples, batches
from deme_core.seeds import SeedBlock, image_seed
from deme_core.training.losses import denoising_loss, regression_target


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
        model = model.to(self.device).eval()
        with torch.inference_mode():
            call = lambda batch: model(batch.noisy, batch.t, **batch.condition).sample  # noqa: E731
            return float(self._mean(call, block, first, count))

    def of_state(
        self, model: nn.Module, state: Mapping[str, torch.Tensor], block: SeedBlock, first: int, count: int
    ) -> torch.Tensor:
        """The loss with these tensors in the model's place, differentiable in them."""
        model = model.to(self.device).eval()

        def call(batch: Batch) -> torch.Tensor:
            return functional_call(model, dict(state), (batch.noisy, batch.t), dict(batch.condition)).sample

        return self._mean(call, block, first, count)

    def _mean(self, call: Callable[[Batch], torch.Tensor], block: SeedBlock, first: int, count: int) -> torch.Tensor:
        total = torch.zeros((), device=self.device)
        for batch in self._batches(block, first, count):
            total = total + denoising_loss(call(batch), batch.target).sum()
        return total / count

    def _batches(self, block: SeedBlock, first: int, count: int) -> Iterator[Batch]:
        T, pairs = self.schedule.config.num_train_timesteps, -(-count // 2)
        generator = torch.Generator().manual_seed(image_seed(block, first))
        half = ((torch.arange(pairs) + torch.rand(pairs, generator=generator)) * T / pairs).long().clamp(max=T - 1)
        t = torch.stack([half, T - 1 - half], 1).flatten()[:count]
        index = torch.randint(len(self.examples), (count,), generator=generator)
        noise = torch.randn(pairs, *self.examples.shape, generator=generator).repeat_interleave(2, 0)[:count]
        for part in batches(count, self.examples.shape):
            x0, condition = self.examples.draw(index[part], generator)
            x0, condition = x0.to(self.device), {key: value.to(self.device) for key, value in condition.items()}
            eps, when = noise[part].to(self.device), t[part].to(self.device)
            target = regression_target(self.schedule, x0, eps, when)
            yield Batch(self.schedule.add_noise(x0, eps, when), when, condition, target)
