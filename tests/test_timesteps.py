"""Timesteps: the partition of [0, T), the expert of each t, and the draw of Eq. 6."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deme_core.errors import InputError
from deme_core.timesteps import TimestepRanges, draw_timesteps

OWN, T = (250, 500), 1000


def draw(n: int, p: float, *, seed: int = 0, trained_range: tuple[int, int] = OWN, **options: object) -> torch.Tensor:
    return draw_timesteps(n, trained_range, T, p, generator=torch.Generator().manual_seed(seed), **options)


def outside(t: torch.Tensor) -> torch.Tensor:
    return (t < OWN[0]) | (t >= OWN[1])


def binomial_error(share: float, n: int) -> float:
    """Five standard errors of a share."""
    return 5 * math.sqrt(share * (1 - share) / n)


@given(T=st.integers(1, 1200), data=st.data())
def test_equal_ranges_are_those_of_equation_7(T: int, data: st.DataObject) -> None:
    N = data.draw(st.integers(1, T))
    ranges = TimestepRanges.equal(N, T)
    assert ranges.bounds == tuple(math.ceil(i * T / N) for i in range(N + 1))
    assert (ranges.N, ranges.T) == (N, T)
    for t in data.draw(st.lists(st.integers(0, T - 1), min_size=1)):
        assert ranges.expert(t) == t * N // T + 1


@pytest.mark.parametrize(("N", "T"), [(1, 1000), (2, 1000), (4, 1000), (8, 1000), (3, 1000), (7, 10), (10, 10)])
def test_every_timestep_belongs_to_the_range_that_holds_it(N: int, T: int) -> None:
    ranges = TimestepRanges.equal(N, T)
    for t in range(T):
        assert ranges.expert(t) == t * N // T + 1
        low, high = ranges.range(ranges.expert(t))
        assert low <= t < high


def test_the_papers_four_ranges() -> None:
    assert TimestepRanges.equal(4, 1000).bounds == (0, 250, 500, 750, 1000)


def test_explicit_boundaries() -> None:
    ranges = TimestepRanges.of(3, 1000, [0, 100, 400, 1000])
    assert [ranges.range(i) for i in (1, 2, 3)] == [(0, 100), (100, 400), (400, 1000)]
    assert [ranges.expert(t) for t in (0, 99, 100, 399, 400, 999)] == [1, 1, 2, 2, 3, 3]
    assert TimestepRanges.of(4, 1000, None) == TimestepRanges.equal(4, 1000)


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([0, 500, 1000], "give N \\+ 1 = 4 rising numbers from 0 to 1000"),
        ([0, 100, 400, 999], "do not fit N = 3, T = 1000"),
        ([1, 100, 400, 1000], "must start at 0"),
        ([0, 400, 400, 1000], "rise strictly"),
        ([0, 400, 100, 1000], "rise strictly"),
    ],
)
def test_boundaries_that_do_not_partition_are_refused(boundaries: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TimestepRanges.of(3, 1000, boundaries)


@pytest.mark.parametrize("N", [0, -1, 1001])
def test_number_of_ranges_outside_1_to_T_is_refused(N: int) -> None:
    with pytest.raises(InputError, match=rf"N = {N}: .* \[1, T = 1000\]"):
        TimestepRanges.equal(N, 1000)


@pytest.mark.parametrize("i", [0, 5])
def test_a_range_that_does_not_exist_is_refused(i: int) -> None:
    with pytest.raises(InputError, match=f"range {i} does not exist: N = 4 ranges are numbered 1 to 4"):
        TimestepRanges.equal(4, 1000).range(i)


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_outside_0_to_T_has_no_expert(t: int) -> None:
    with pytest.raises(InputError, match=f"timestep {t} lies outside"):
        TimestepRanges.equal(4, 1000).expert(t)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_share_of_draws_outside_the_own_range_is_that_of_equation_6(p: float, antithetic: bool) -> None:
    n = 40_000
    t = draw(n, p, antithetic=antithetic)
    expected = p * (1 - (OWN[1] - OWN[0]) / T)
    decisions = n // 2 if antithetic else n  # the pairs are independent, not the draws
    assert abs(outside(t).double().mean() - expected) < binomial_error(expected, decisions)
    assert t.dtype == torch.int64
    assert t.min() >= 0
    assert t.max() < T


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_draws_are_uniform_over_their_range(p: float) -> None:
    n, (low, high) = 40_000, OWN if p == 0 else (0, T)
    t = draw(n, p)
    assert t.min() == low
    assert t.max() == high - 1
    counts = torch.histc((t - low).double(), bins=10, min=0, max=high - low)
    assert (counts / n - 0.1).abs().max() < binomial_error(0.1, n)


def test_per_sample_decides_for_every_sample_and_per_batch_once_for_all() -> None:
    batches, p = 2_000, 0.4
    per_batch = torch.stack([draw(16, p, seed=s, draw="per_batch") for s in range(batches)])
    wide = outside(per_batch).any(1)  # 16 draws from the full range all fall inside once in 4**16
    assert abs(wide.double().mean() - p) < binomial_error(p, batches)
    assert abs(outside(per_batch[wide]).double().mean() - 0.75) < binomial_error(0.75, int(wide.sum()) * 16)
    per_sample = torch.stack([draw(16, p, seed=s) for s in range(200)])
    mixed = outside(per_sample).any(1) & ~outside(per_sample).all(1)
    assert mixed.double().mean() > 0.9


@pytest.mark.parametrize("mode", ["per_sample", "per_batch"])
@pytest.mark.parametrize(("p", "low", "high"), [(0.0, *OWN), (1.0, 0, T)])
def test_antithetic_draws_are_mirrored_pairs(mode: str, p: float, low: int, high: int) -> None:
    t = draw(64, p, draw=mode, antithetic=True)
    assert torch.equal(t[:32] + t[32:], torch.full((32,), low + high - 1))
    assert len(t[:32].unique()) > 16


def test_antithetic_pairs_mirror_in_the_range_each_was_drawn_from() -> None:
    sums = draw(2_000, 0.5, antithetic=True).reshape(2, -1).sum(0)
    assert set(sums.tolist()) == {OWN[0] + OWN[1] - 1, T - 1}


def test_an_odd_antithetic_batch_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size = 7 is odd"):
        draw(7, 0.4, antithetic=True)


def test_draws_are_a_function_of_the_generator() -> None:
    assert torch.equal(draw(64, 0.4, seed=3), draw(64, 0.4, seed=3))
    assert not torch.equal(draw(64, 0.4, seed=3), draw(64, 0.4, seed=4))
