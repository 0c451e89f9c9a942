"""The method `gradient` on images: Adam along the slope of the Fréchet distance through the sampler."""

from contextlib import suppress

import numpy as np
import torch

from deme_core.search.first_round import SLOPE_COST, BudgetSpent, FirstRound, Nomination
from deme_core.search.trials import Weights

RATE = 0.05  # of the bounds' width, the first step; cosine decay


def descend(first_round: FirstRound) -> list[Nomination]:
    """From w = 0 as many steps as the budget buys, each on fresh images: the last point, and the later half's mean.

    A step's slope is noisy, and so is the last point; the mean is less so.
    """
    steps = int(first_round.params.budget // (SLOPE_COST * first_round.params.images))
    low, high = np.array(first_round.bounds).T
    w = torch.zeros(first_round.N, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=RATE * float(np.max(high - low)))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
    path: list[list[float]] = [w.tolist()]
    with suppress(BudgetSpent):
        for k in range(steps):
            _, slope = first_round.slope(w.tolist(), k)
            _, pull = spread(first_round.full(w.tolist()), first_round.vectors)
            w.grad = torch.tensor(slope, dtype=torch.float64)
            w.grad += first_round.params.towards_shared * torch.from_numpy(pull[first_round.free])
            adam.step()
            decay.step()
            with torch.no_grad():
                w.clamp_(torch.from_numpy(low), torch.from_numpy(high))
            path.append(w.tolist())
    later = np.mean(path[len(path) // 2 :], axis=0)
    return [first_round.nomination(path[-1]), first_round.nomination(later.tolist())]


def spread(w: Weights, N: int) -> tuple[float, np.ndarray]:
    """Mean squared distance of each group's N weights from their mean over the groups, and its gradient over w."""
    weights = np.array(w).reshape(-1, N)
    away = weights - weights.mean(0)
    return float((away**2).mean()), (2 * away / away.size).ravel()
