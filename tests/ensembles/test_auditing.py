"""The test of a certified rate: what it may never do in expectation, how often it errs, and how soon it finds out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensembles.auditing import RateTest, log_evidence

LIMITS = st.floats(1e-4, 0.9)
ALPHA = 0.05


def streams(rate: float, rows: int, seed: int, count: int = 1000) -> list[RateTest]:
    """Tests of a limit of 0.005 after so many rows that differ at this rate, watched after every row.

    Rows that do not differ only lower the evidence, so that looking after those that do is looking after each.
    """
    rng = np.random.default_rng(seed)
    tests = []
    for _ in range(count):
        test, seen = RateTest(0.005, ALPHA), 0
        for row in np.flatnonzero(rng.random(rows) < rate):
            test.observe(int(row) + 1 - seen, 1)
            seen = int(row) + 1
            if test.violated:
                break
        tests.append(test)
    return tests


def test_false_alarms_are_no_more_frequent_than_promised() -> None:
    """A thousand servers at exactly the certified rate, each watched for 20,000 rows."""
    alarms = sum(test.violated for test in streams(0.005, 20_000, seed=1))

    assert 5 <= alarms <= 50, "5% may; and a test that never errs finds nothing"


def test_below_the_certified_rate_there_is_hardly_ever_an_alarm() -> None:
    assert sum(test.violated for test in streams(0.0025, 20_000, seed=2)) <= 10


def test_twice_the_certified_rate_is_found_within_thirty_over_the_rate() -> None:
    found = [test for test in streams(0.01, 6_000, seed=3) if test.violated]

    assert len(found) >= 950
    assert np.median([test.rows for test in found]) <= 9 / 0.005


@given(LIMITS, st.integers(0, 10**6), st.data())
def test_no_row_adds_to_the_evidence_in_expectation_while_the_claim_holds(
    limit: float, rows: int, data: st.DataObject
) -> None:
    """Whatever came before, and at every rate up to the limit; at the limit itself it stays as it is."""
    differing = data.draw(st.integers(0, rows))
    rate = data.draw(st.floats(0, limit))
    before = log_evidence(rows, differing, limit)
    same = math.exp(log_evidence(rows + 1, differing, limit) - before)
    other = math.exp(log_evidence(rows + 1, differing + 1, limit) - before)

    assert rate * other + (1 - rate) * same <= 1 + 1e-9
    assert limit * other + (1 - limit) * same == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("limit", [0.005, 0.05, 0.5])
def test_the_expected_evidence_is_one_at_the_limit(limit: float) -> None:
    """Over all that can be seen in 60 rows, each with its chance."""
    seen = np.arange(61)
    evidence = [math.exp(log_evidence(60, int(k), limit)) for k in seen]

    assert stats.binom.pmf(seen, 60, limit) @ evidence == pytest.approx(1)


@given(LIMITS, st.integers(1, 10**6), st.data())
def test_each_differing_row_speaks_against_the_claim_and_each_other_one_for_it(
    limit: float, rows: int, data: st.DataObject
) -> None:
    differing = data.draw(st.integers(0, rows))
    before = log_evidence(rows, differing, limit)

    assert log_evidence(rows + 1, differing + 1, limit) > before > log_evidence(rows + 1, differing, limit)


def test_nothing_overflows_in_a_lifetime() -> None:
    assert log_evidence(10**12, 10**12, 0.001) > 1e12
    assert log_evidence(10**12, 0, 0.001) < -1e8
    assert log_evidence(0, 0, 0.001) == pytest.approx(0)


def test_the_alarm_stays_when_later_rows_agree() -> None:
    test = RateTest(0.01, ALPHA)
    test.observe(100, 10)
    assert test.violated

    test.observe(100_000, 0)
    assert test.violated
    assert (test.rows, test.differing) == (100_100, 10)


def test_a_lower_alpha_asks_for_more_evidence() -> None:
    """Three of three: the mean of 1.25^3, ..., 16^3 is about 670, between 1/0.05 and 1/0.001."""
    common, rare = RateTest(0.001, 0.05), RateTest(0.001, 0.001)
    common.observe(3, 3)
    rare.observe(3, 3)

    assert (common.violated, rare.violated) == (True, False)


@given(LIMITS, st.integers(0, 5000), st.data())
def test_the_lowest_possible_rate_lies_below_what_was_seen_and_above_what_is_disproved(
    limit: float, rows: int, data: st.DataObject
) -> None:
    test = RateTest(limit, ALPHA)
    test.observe(rows, data.draw(st.integers(0, rows)))

    assert 0 <= test.at_least <= test.rate
    assert test.violated == (test.at_least >= limit)


@pytest.mark.parametrize("truth", [0.002, 0.02, 0.3])
def test_the_lowest_possible_rate_is_above_the_truth_in_one_of_twenty_streams_at_most(truth: float) -> None:
    """Looked at after every differing row, which is when it rises."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        rows = np.cumsum(rng.geometric(truth, 40))
        wrong += any(log_evidence(int(n), k, truth) >= -math.log(ALPHA) for k, n in enumerate(rows, 1))

    assert wrong <= 50


def test_before_the_first_row_nothing_is_known() -> None:
    test = RateTest(0.005, ALPHA)

    assert (test.rate, test.at_least, test.violated) == (0.0, 0.0, False)
