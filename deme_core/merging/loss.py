"""The denoising loss over all timesteps as a function of a model: what a search can use without sampling."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from deme_core.data.images import to_model
from deme_core.seeds import SeedBlock, image_seed
from deme_core.training.losses import denoising_loss, regression_target

BATCH = 500


class Batch(NamedTuple):
    """What the network gets, and what it should say."""

    noisy: torch.Tensor
    t: torch.Tensor
    target: torch.Tensor


class DenoisingLoss:
    """Mean of ‖target − prediction‖² (Eq. 3) over draws (x_0, ε, t), the same draws for every model.

    t is stratified over [0, T), a stratum a pair of draws, and antithetic: a pair has t and T − 1 − t, with one ε.
    """

    def __init__(self, noise_schedule: Any, pixels: torch.Tensor, device: torch.device) -> None:
        """`pixels` is uint8 [n, C, H, W]: images that the evaluation's held-out part does not hold."""
        self.schedule, self.pixels, self.device = noise_schedule, pixels, device

    def value(self, model: nn.Module, block: SeedBlock, first: int, count: int) -> float:
        """The loss of a model on `count` draws, counted from `first`."""
        model = model.to(self.device).eval()
        with torch.inference_mode():
            return float(self._mean(lambda batch: model(batch.noisy, batch.t).sample, block, first, count))

    def of_state(
        self, model: nn.Module, state: Mapping[str, torch.Tensor], block: SeedBlock, first: int, count: int
    ) -> torch.Tensor:
        """The loss with these tensors in the model's place, differentiable in them."""
        model = model.to(self.device).eval()
        call = lambda batch: functional_call(model, dict(state), (batch.noisy, batch.t)).sample  # noqa: E731
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
        index = torch.randint(len(self.pixels), (count,), generator=generator)
        noise = torch.randn(pairs, *self.pixels.shape[1:], generator=generator).repeat_interleave(2, 0)[:count]
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            x0 = to_model(self.pixels[index[part]]).to(self.device)
            eps, when = noise[part].to(self.device), t[part].to(self.device)
            target = regression_target(self.schedule, x0, eps, when)
            yield Batch(self.schedule.add_noise(x0, eps, when), when, target)
