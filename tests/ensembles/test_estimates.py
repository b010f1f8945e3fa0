"""Intervals: against scipy, by the share of simulated studies that they cover, and where there is little to say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensembles.estimates import Estimate, mean, proportion, share


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (3, 10), (0, 50), (50, 50), (285, 300), (999_999, 1_000_000)])
def test_wilson_is_scipys(count: int, n: int) -> None:
    theirs = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    found = proportion(np.arange(n) < count)

    assert (found.value, found.n) == (count / n, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [100, 600, 10_000])
def test_wilson_covers_the_truth_in_nineteen_of_twenty_studies(truth: float, n: int) -> None:
    """Exactly: every outcome, weighted by its chance."""
    counts = np.arange(n + 1)
    likely = counts[stats.binom.pmf(counts, n, truth) > 1e-9]
    covering = [k for k in likely if share(int(k), n).low <= truth <= share(int(k), n).high]

    assert 0.935 < stats.binom.pmf(covering, n, truth).sum() < 0.97


@given(st.integers(1, 10**7), st.data())
def test_an_interval_holds_its_value_and_no_impossible_share(n: int, data: st.DataObject) -> None:
    found = share(data.draw(st.integers(0, n)), n)

    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_mean_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean(values)

    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_the_mean_of_single_precision_is_summed_in_double() -> None:
    """Adding up in single precision would stop at 16,777,216."""
    assert mean(np.ones(20_000_000, np.float32)) == Estimate(1.0, 1.0, 1.0, 20_000_000)


def test_one_row_says_nothing_of_the_spread() -> None:
    found = mean(np.array([0.25]))

    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.as_json() == {"value": 0.25, "low": None, "high": None, "n": 1}


def test_an_estimate_is_written_as_the_files_have_it() -> None:
    assert share(1, 2).as_json() == {
        "value": 0.5,
        "low": pytest.approx(0.0945, abs=1e-4),
        "high": pytest.approx(0.9055, abs=1e-4),
        "n": 2,
    }


def test_no_rows_are_refused() -> None:
    for estimate in (lambda: proportion(np.zeros(0, np.bool_)), lambda: mean(np.zeros(0))):
        with pytest.raises(ValueError, match="found no rows, expected at least 1"):
            estimate()
