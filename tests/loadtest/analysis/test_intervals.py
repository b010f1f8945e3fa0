"""Intervals of what a time line shows, and of how two estimates differ: how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.estimates import Estimate
from loadtest import blocks, differences
from loadtest.histogram import Histogram

EXACT = {q: -math.log(1 - q) / (1000 - 700) for q in (0.5, 0.95, 0.99)}
"""Quantiles of the time in an M/M/1 queue: 700 requests/s at a server that manages 1000/s."""


@pytest.fixture(scope="module")
def queues(simulated):
    return [simulated(seed, rate=700.0, service_rate=1000.0, seconds=30.0).arms[0] for seed in range(100)]


@pytest.mark.parametrize("q", EXACT)
def test_the_interval_of_a_quantile_holds_it_although_neighbours_wait_together(queues, q: float) -> None:
    found = [blocks.quantile(arm.latency, [slot.latency for slot in arm.timeline], q) for arm in queues]

    assert sum(each.low <= EXACT[q] <= each.high for each in found) >= 89


def test_an_interval_as_if_requests_were_independent_would_be_too_narrow(queues) -> None:
    """Why there are blocks: the same requests as one block."""
    found = [blocks.quantile(arm.latency, [arm.latency], 0.95) for arm in queues]

    assert sum(each.low <= EXACT[0.95] <= each.high for each in found) < 75


def test_too_few_requests_do_not_bound_a_far_quantile() -> None:
    found = blocks.quantile(*(lambda h: (h, [h]))(Histogram.of(np.arange(1, 101) / 1000)), q=0.99)

    assert found.high == math.inf
    assert found.low < found.value == pytest.approx(0.099, rel=1e-3)


def test_one_bad_second_widens_a_share() -> None:
    """50 errors in one of 20 blocks say less than 50 spread evenly, though the share is the same."""
    totals = np.full(20, 100.0)
    spread, burst = np.full(20, 2.5), np.where(np.arange(20) == 3, 50.0, 0.0)
    even, uneven = blocks.share(spread, totals), blocks.share(burst, totals)

    assert even.value == uneven.value == 0.025
    assert uneven.high - uneven.low > 3 * (even.high - even.low)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40), st.floats(0.5, 0.999))
def test_a_share_lies_within_its_interval(counts: list[tuple[int, int]], confidence: float) -> None:
    hits = np.array([float(min(pair)) for pair in counts])
    totals = np.array([float(max(pair)) for pair in counts])
    if totals.sum():
        found = blocks.share(hits, totals, confidence)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_ratio_of_equal_blocks_has_students_interval() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = blocks.ratio(values, np.ones(4), 4)

    assert found.value == 2.5
    assert found.high - found.value == pytest.approx(3.182446 * values.std(ddof=1) / 2, rel=1e-6)


def test_blocks_keep_every_slot() -> None:
    assert blocks.joined(np.arange(95)).sum() == np.arange(95).sum()
    assert len(blocks.joined(np.arange(95))) == blocks.BLOCKS


def test_a_difference_is_that_of_independent_normal_estimates() -> None:
    found = differences.difference(Estimate(10, 7, 13, 5), Estimate(20, 16, 24, 9))

    assert (found.value, found.low, found.high, found.n) == (10, 5, 15, 5)


def test_a_change_is_relative_to_the_first() -> None:
    found = differences.change(Estimate(0.010, 0.010, 0.010, 9), Estimate(0.011, 0.0105, 0.0115, 9))

    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.05, 0.15))


def test_a_quotient_is_fiellers() -> None:
    """Against its definition: the x for which (above - x below) may be 0."""
    found = differences.quotient(Estimate(2, 1, 3, 9), Estimate(4, 3, 5, 9))
    for end in (found.low, found.high):
        assert (2 - end * 4) ** 2 == pytest.approx(1 + end**2)


def test_a_quotient_covers_the_truth_in_nineteen_of_twenty() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        above, below = rng.normal(1.0, 0.1), rng.normal(0.5, 0.1)
        found = differences.quotient(
            Estimate(above, above - 0.196, above + 0.196, 9), Estimate(below, below - 0.196, below + 0.196, 9)
        )
        covered += found.low <= 2.0 <= found.high

    assert 930 <= covered <= 970


def test_nothing_is_said_of_a_quotient_by_what_may_be_zero() -> None:
    found = differences.quotient(Estimate(1, 0.9, 1.1, 9), Estimate(0.01, -0.02, 0.04, 9))

    assert (found.low, found.high) == (-math.inf, math.inf)


def test_paired_rows_that_never_differ_still_have_an_interval() -> None:
    found = differences.paired(np.zeros(400), 0.95)

    assert found.low < found.value == 0 < found.high < 0.01
