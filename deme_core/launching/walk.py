"""Tasks that need each other, several at a time: what may begin, in which order, and what a failure stops."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping

Needs = Mapping[str, Iterable[str]]  # task -> what must have succeeded before; what is needed comes first in it


def heights(needs: Needs) -> dict[str, int]:
    """Task -> how many tasks stand on the longest way from it to an end, itself among them."""
    height = dict.fromkeys(needs, 1)
    for task, before in reversed(list(needs.items())):
        for need in before:
            height[need] = max(height[need], height[task] + 1)
    return height


def behind(needs: Needs, failed: Iterable[str]) -> list[str]:
    """The tasks that need a failed one, by however many steps."""
    without, found = set(failed), list[str]()
    for task, before in needs.items():
        if not without.isdisjoint(before):
            without.add(task)
            found.append(task)
    return found


def ready(needs: Needs, waiting: Iterable[str], succeeded: Container[str]) -> list[str]:
    """Those of the waiting tasks that may begin."""
    return [task for task in waiting if all(need in succeeded for need in needs[task])]


def by_height(needs: Needs) -> list[str]:
    """The tasks, that with the longest way before it first; among equals in the order of `needs`."""
    height = heights(needs)
    return sorted(needs, key=lambda task: -height[task])


def steps(needs: Needs, jobs: int) -> Iterator[list[str]]:
    """What `walk` does at a time, if all tasks take equally long."""
    waiting, succeeded = by_height(needs), set[str]()
    while waiting:
        yield (now := ready(needs, waiting, succeeded)[:jobs])
        succeeded.update(now)
        waiting = [task for task in waiting if task not in succeeded]


async def walk(
    needs: Needs, work: Callable[[str, int], Awaitable[bool]], jobs: int, go_on: Callable[[], bool] = lambda: True
) -> None:
    """Do the tasks, `jobs` at a time, of those that may begin the one with the longest way before it first.

    Args:
        work: does a task in a slot, 0 … jobs - 1, that it has for itself meanwhile; whether it succeeded. What is
            behind a failure does not begin.
        go_on: whether further tasks may begin.
    """
    waiting, succeeded = by_height(needs), set[str]()
    slots, running = list(range(jobs)), dict[asyncio.Future[bool], tuple[str, int]]()
    while True:
        for task in ready(needs, waiting, succeeded)[: len(slots)] if go_on() else ():
            waiting.remove(task)
            slot = heapq.heappop(slots)
            running[asyncio.ensure_future(work(task, slot))] = task, slot
        if not running:
            return
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            task, slot = running.pop(future)
            heapq.heappush(slots, slot)
            if future.result():
                succeeded.add(task)
