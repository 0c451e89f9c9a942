"""Pieces of work in workers: in order, bounded, each on one core."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from deme_core.parallel import AHEAD, in_order, torch_threads
from deme_core.stage import run

CUDA = torch.device("cuda")


def test_results_come_in_the_order_of_the_pieces() -> None:
    torch.set_num_threads(2)
    second = threading.Event()

    def call(k: int) -> int:
        if k == 0:
            assert second.wait(30)
        elif k == 1:
            second.set()
        return k * k

    assert list(in_order(call, range(9))) == [k * k for k in range(9)]


def test_as_many_pieces_at_a_time_as_torch_has_threads_and_each_on_one_core() -> None:
    torch.set_num_threads(4)
    together = threading.Barrier(4, timeout=30)

    def call(k: int) -> tuple[int, int]:
        together.wait()
        return threading.get_ident(), torch.get_num_threads()

    found = list(in_order(call, range(8)))
    assert len({thread for thread, _ in found}) == 4
    assert {threads for _, threads in found} == {1}
    assert torch.get_num_threads() == 4


def test_pieces_are_taken_shortly_before_they_are_needed() -> None:
    torch.set_num_threads(2)
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for k in range(100):
            assert threading.current_thread() is threading.main_thread()
            taken.append(k)
            yield k

    results = in_order(lambda k: k, pieces())
    assert taken == []
    for k in range(50):
        assert next(results) == k
        assert len(taken) <= k + AHEAD * 2
    results.close()
    assert len(taken) < 60
    assert torch.get_num_threads() == 2
    taken.clear()
    next(results := in_order(lambda k: k, pieces(), ahead=30))
    assert len(taken) == 30
    results.close()


def test_a_piece_that_fails_ends_all() -> None:
    torch.set_num_threads(2)
    done: list[int] = []

    def call(k: int) -> int:
        if k == 3:
            raise KeyError("the fourth")
        done.append(k)
        return k

    seen = []
    with pytest.raises(KeyError, match="the fourth"):
        for result in in_order(call, range(1000)):
            seen.append(result)
    assert seen == [0, 1, 2]
    assert len(done) < 20
    assert torch.get_num_threads() == 2

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(in_order(lambda k: k, broken()))
    assert torch.get_num_threads() == 2


def test_calls_within_calls_share_the_workers() -> None:
    torch.set_num_threads(2)
    threads: set[int] = set()

    def call(k: int) -> int:
        assert torch.get_num_threads() == 1
        threads.add(threading.get_ident())
        return k

    def nested(k: int) -> list[int]:
        return list(in_order(call, [k, k + 1]))  # in a worker: its own work

    stream = in_order(call, in_order(call, range(20)))
    assert [next(stream) for _ in range(5)] == list(range(5))
    assert torch.get_num_threads() == 1  # here, too, while there are workers
    assert list(stream) == list(range(5, 20))
    assert len(threads) <= 2
    assert list(in_order(nested, range(3))) == [[0, 1], [1, 2], [2, 3]]
    assert torch.get_num_threads() == 2


def test_one_thread_another_device_or_a_wish_to_be_ahead() -> None:
    def where(k: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert list(in_order(where, range(2))) == [True, True]
    assert list(in_order(where, range(2), ahead=1)) == [False, False]
    torch.set_num_threads(2)
    assert list(in_order(where, range(2))) == [False, False]
    assert list(in_order(where, range(2), CUDA)) == [True, True]


def test_pieces_have_the_cores_that_torch_itself_is_not_given() -> None:
    torch.set_num_threads(4)

    def workers() -> int:
        together = threading.Barrier(4, timeout=30)

        def call(k: int) -> int:
            together.wait()
            return threading.get_ident()

        return len(set(in_order(call, range(8))))

    with torch_threads(1):
        assert (torch.get_num_threads(), workers(), torch.get_num_threads()) == (1, 4, 1)
        with torch_threads(None):  # all that there are
            assert torch.get_num_threads() == 4
        with torch_threads(2, pieces=1):
            assert torch.get_num_threads() == 2
            assert list(in_order(lambda _: threading.current_thread(), range(2))) == [threading.main_thread()] * 2
        assert (torch.get_num_threads(), workers()) == (1, 4)
    assert torch.get_num_threads() == 4


def test_outside_of_pieces_a_stage_computes_on_one_core() -> None:
    """Over several, sums and decompositions have other last digits."""
    values = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0))
    matrix = values.numpy().astype(float).reshape(1024, -1)[:, :640]

    def compute() -> tuple[float, float]:
        return float(torch.dot(values, values)), float(np.linalg.svd(matrix, compute_uv=False).sum())

    with threadpool_limits(1, "blas"):
        expected = compute()
    found = list[tuple[float, float]]()
    torch.set_num_threads(3)
    with threadpool_limits(3, "blas"):
        assert not set(compute()) & set(expected)
        run(lambda: found.append(compute()))
    assert found == [expected]
    assert torch.get_num_threads() == 3
