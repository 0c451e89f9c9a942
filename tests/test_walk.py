"""The walk over tasks that need each other, without DVC."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deme_core.launching.walk import behind, heights, steps, walk

NEEDS = {"a": [], "b": ["a"], "c": ["b"], "x": [], "y": ["x", "a"]}


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Up to ten tasks, each needing some of those before it."""
    names = [str(k) for k in range(draw(st.integers(0, 10)))]
    return {name: draw(st.lists(st.sampled_from(names[:k]), unique=True)) if k else [] for k, name in enumerate(names)}


def test_heights_by_hand() -> None:
    assert heights(NEEDS) == {"a": 3, "b": 2, "c": 1, "x": 2, "y": 1}


def test_what_is_behind_a_failure_by_hand() -> None:
    assert behind(NEEDS, ["b"]) == ["c"]
    assert behind(NEEDS, ["a"]) == ["b", "c", "y"]
    assert behind(NEEDS, []) == behind(NEEDS, ["c", "y"]) == []


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [(1, ["a", "b", "x", "c", "y"]), (2, ["a x", "b y", "c"]), (9, ["a x", "b y", "c"])],
)  # fmt: skip
def test_steps_by_hand(jobs: int, expected: list[str]) -> None:
    assert [" ".join(step) for step in steps(NEEDS, jobs)] == expected


@given(graphs(), st.integers(1, 4), st.sets(st.integers(0, 9).map(str)), st.randoms(use_true_random=False))
def test_none_begins_before_what_it_needs_and_each_runs_once(needs, jobs, fails, random) -> None:
    begun, ended, slots = list[str](), set[str](), set[int]()

    async def work(task: str, slot: int) -> bool:
        assert set(needs[task]) <= ended - fails
        assert slot not in slots and 0 <= slot < jobs
        slots.add(slot)
        begun.append(task)
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)
        slots.remove(slot)
        ended.add(task)
        return task not in fails

    asyncio.run(walk(needs, work, jobs))
    assert sorted(begun) == sorted(needs.keys() - set(behind(needs, fails & needs.keys())))


@given(graphs(), st.integers(1, 4))
def test_no_slot_is_idle_while_a_task_may_begin(needs, jobs) -> None:
    succeeded: set[str] = set()
    for step in steps(needs, jobs):
        could = {task for task, needed in needs.items() if succeeded.issuperset(needed)} - succeeded
        assert len(step) == min(jobs, len(could)) and could.issuperset(step)
        succeeded |= set(step)
    assert succeeded == set(needs)


def test_once_it_is_not_to_go_on_nothing_begins() -> None:
    begun = []

    async def work(task: str, _: int) -> bool:
        begun.append(task)
        return True

    asyncio.run(walk(NEEDS, work, 2, lambda: not begun))
    assert begun == ["a", "x"]
