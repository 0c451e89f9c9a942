"""The micro-batches of a training: every process draws the numbers of the whole one, and keeps its own rows.

So a training is the same on any number of processes, up to the order of a sum; and since the numbers come from the
CPU's generators, on any device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from deme_core.components import Condition
from deme_core.data.examples import Examples
from deme_core.parallel import in_order
from deme_core.params import check
from deme_core.seeds import step_seed
from deme_core.timesteps import draw_timesteps
from deme_core.training.job import Job

DRAWS, DROPOUT = 0, 1  # what a seed of a step is for; each process has a dropout of its own
AHEAD = 2  # micro-batches at least that are drawn while a GPU is at work


@dataclass(frozen=True)
class Batch:
    """This process' rows of a micro-batch, [b, …] each."""

    x0: torch.Tensor
    condition: Condition
    noise: torch.Tensor
    t: torch.Tensor

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same rows with every tensor changed."""
        condition = {key: change(value) for key, value in self.condition.items()}
        return Batch(change(self.x0), condition, change(self.noise), change(self.t))


class Batches:
    """Micro-batches by their step and number, always the same ones."""

    def __init__(self, examples: Examples, job: Job, rank: int, processes: int) -> None:
        """Refuse a micro-batch that the processes cannot share out evenly; `rank` is this process' among all."""
        params = job.settings
        check(
            params.batch_size % processes == 0, "batch_size", params.batch_size,
            f"must be a multiple of the {processes} processes, which share it out evenly",
        )  # fmt: skip
        share = params.batch_size // processes
        self.rows = slice(rank * share, (rank + 1) * share)
        self.examples, self.job, self.params, self.rank = examples, job, params, rank
        self.shuffled = -1, torch.empty(0, dtype=torch.long)

    def draw(self, at: tuple[int, int]) -> Batch:
        """Micro-batch `at` = (step, number within it), on the CPU."""
        generator = torch.Generator().manual_seed(self.step_seed(*at, DRAWS))
        x0, condition = self.examples.draw(
            self._index(*at), generator, rows=self.rows, flip=self.params.horizontal_flip,
            caption_dropout=self.params.caption_dropout,
        )  # fmt: skip
        noise = torch.randn(self.params.batch_size, *x0.shape[1:], generator=generator)[self.rows]
        t = draw_timesteps(
            self.params.batch_size, self.job.trained_range, self.job.ranges.T, self.job.p,
            draw=self.params.timestep_draw, antithetic=self.params.antithetic, generator=generator,
        )  # fmt: skip
        return Batch(x0, condition, noise, t[self.rows])

    def stream(self, first: int, device: torch.device) -> Iterator[Batch]:
        """All micro-batches from step `first` on, on the device; those of a GPU are drawn and pinned ahead of it."""
        numbers = range(self.params.gradient_accumulation)
        todo = ((step, micro) for step in range(first, self.params.iterations + 1) for micro in numbers)
        if device.type == "cpu":
            yield from map(self.draw, todo)
            return
        for batch in in_order(lambda at: self.draw(at).each(torch.Tensor.pin_memory), todo, ahead=AHEAD):
            yield batch.each(lambda value: value.to(device, non_blocking=True))

    def seed_dropout(self, step: int, micro: int) -> None:
        """Dropout draws from the global generators."""
        torch.manual_seed(self.step_seed(step, micro, DROPOUT + self.rank))

    def step_seed(self, step: int, micro: int, what: int) -> int:
        """The seed of a micro-batch for DRAWS, or from DROPOUT on for the dropout of each process."""
        return step_seed(self.job.seed, self.job.label, step, micro, what)

    def _index(self, step: int, micro: int) -> torch.Tensor:
        """The examples of a micro-batch: walk through a fresh permutation of the data every epoch."""
        size = self.params.batch_size
        start = ((step - 1) * self.params.gradient_accumulation + micro) * size
        position = torch.arange(start, start + size)
        epoch = position // len(self.examples)
        index = torch.empty_like(position)
        for e in epoch.unique().tolist():
            index[epoch == e] = self._order(e)[position[epoch == e] % len(self.examples)]
        return index

    def _order(self, epoch: int) -> torch.Tensor:
        """The permutation of an epoch; the last one is kept, since a large set takes long to shuffle."""
        known, order = self.shuffled  # both at once: several threads may draw
        if known != epoch:
            generator = torch.Generator().manual_seed(step_seed(self.job.seed, "epoch", epoch))
            order = torch.randperm(len(self.examples), generator=generator)
            self.shuffled = epoch, order
        return order
