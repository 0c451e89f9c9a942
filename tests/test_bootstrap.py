"""Intervals over prompts cover what they promise."""

import numpy as np
import pytest

from deme_core.metrics.bootstrap import bootstrap_interval, paired_bootstrap, prompt_means
from deme_core.metrics.intervals import t_interval


@pytest.mark.parametrize(("size", "skewed"), [(10, False), (40, False), (40, True)])
def test_a_95_percent_interval_covers_the_mean_in_95_percent_of_the_cases(size: int, skewed: bool) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(120):
        values = generator.exponential(size=size) - 1 if skewed else generator.normal(size=size)
        interval = bootstrap_interval(values)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 120 <= 1


def test_on_many_values_it_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=4000)
    ours, student = bootstrap_interval(values), t_interval(values)
    assert ours.value == pytest.approx(3, abs=0.2)
    assert (ours.low, ours.high) == pytest.approx((student.low, student.high), abs=0.01)
    assert bootstrap_interval(values) == ours


def test_what_two_models_share_cancels() -> None:
    generator = np.random.default_rng(0)
    prompts = generator.normal(30, 5, size=200)  # some prompts are harder than others
    before, after = prompts + generator.normal(0, 0.5, 200), prompts + 0.3 + generator.normal(0, 0.5, 200)
    change = paired_bootstrap(after, before)
    assert 0 < change.low < change.value < change.high
    assert change.high - change.low < 0.3
    alone = bootstrap_interval(after)
    assert alone.high - alone.low > 1


@pytest.mark.parametrize("size", [3, 20])
def test_equal_values_give_a_point(size: int) -> None:
    interval = bootstrap_interval([2.0] * size)
    assert (interval.low, interval.value, interval.high) == (2, 2, 2)


def test_very_few_values_get_a_t_interval() -> None:
    assert bootstrap_interval([50.0, 100.0, 50.0]) == t_interval([50.0, 100.0, 50.0])


def test_a_prompt_counts_once_however_many_images_it_has() -> None:
    assert prompt_means([1, 5, 3, 8], [0, 1, 0, 1]).tolist() == [2, 6.5]
    assert prompt_means([1, 1, 1, 5], [0, 0, 0, 1]).tolist() == [1, 5]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="prompt 1 has no image"):
        prompt_means([1, 2], [0, 2])
    with pytest.raises(ValueError, match=r"scores \(2,\) of prompts \(3,\)"):
        prompt_means([1, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="take more prompts"):
        bootstrap_interval([1.0])
    with pytest.raises(ValueError, match="take more prompts"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ValueError, match="they are paired, take one set"):
        paired_bootstrap([1.0, 2.0], [1.0])
