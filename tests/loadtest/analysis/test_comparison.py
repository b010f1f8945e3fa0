"""Comparisons: few false alarms, and real changes found; both simulated a hundred times."""

import dataclasses

import pytest

from loadtest import comparison
from loadtest.comparison import compared, pairs_of

PAIRS = 100
SECONDS = 150.0


@pytest.fixture(scope="module")
def runs(simulated):
    """2 x 100 runs of 400 requests/s for 150 s at a server that manages 1000/s."""
    return [simulated(seed, accuracy=0.95, cost=1e-6, seconds=SECONDS) for seed in range(2 * PAIRS)]


@pytest.fixture(scope="module")
def equal(runs):
    """100 comparisons of runs that differ by chance alone."""
    return [compared(pairs_of(*pair)) for pair in zip(runs[:PAIRS], runs[PAIRS:], strict=True)]


@pytest.fixture(scope="module")
def slower(simulated, runs):
    """100 comparisons with runs whose slowest tenth takes 10% longer: p95 and p99 are shifted by 10%, p50 is not."""
    after = [simulated(PAIRS + seed, accuracy=0.95, cost=1e-6, seconds=SECONDS, slower=1.1) for seed in range(PAIRS)]
    return [compared(pairs_of(*pair)) for pair in zip(runs[:PAIRS], after, strict=True)]


def change_of(changes, name):
    return next(each for each in changes if each.measure.name == name)


def test_equal_runs_raise_a_false_alarm_in_at_most_5_of_100_pairs(equal) -> None:
    assert sum(any(change.shown for change in changes) for changes in equal) <= 5


def test_a_shift_of_p95_by_10_percent_is_found_in_at_least_90_of_100_pairs(slower) -> None:
    assert sum(change_of(changes, "latency p95").worse for changes in slower) >= 90


def test_the_intervals_hold_what_truly_changed(slower) -> None:
    for name, truth in (("latency p95", 0.1), ("latency p50", 0.0)):
        found = [change_of(changes, name).change for changes in slower]
        assert sum(each.low <= truth <= each.high for each in found) >= 95


def test_a_run_does_not_differ_from_itself(side_by_side) -> None:
    run = side_by_side(full=(380, 2e-6), member_cnn=(370, 1e-6))
    changes = compared(pairs_of(run, run))

    assert {change.policy for change in changes} == {"full", "member:cnn"}
    assert not any(change.shown for change in changes)
    assert all(change.change.value == 0 for change in changes)
    assert comparison.said(changes) == f"No change is shown in any of {len(changes)} measures."


def test_accuracy_is_compared_row_by_row(side_by_side) -> None:
    """Twenty rows lost and none won of the same 400 are sure; of two samples apart they would not be."""
    before, after = side_by_side(full=(380, 1e-6)), side_by_side(full=(360, 1e-6))
    apart = dataclasses.replace(after, data="other.npz")
    (paired,) = (each for each in compared(pairs_of(before, after)) if each.measure.name == "accuracy")
    (unpaired,) = (each for each in compared(pairs_of(before, apart)) if each.measure.name == "accuracy")

    assert (paired.change.value, unpaired.change.value) == pytest.approx((-0.05, -0.05))
    assert paired.worse and not unpaired.worse


def test_a_tolerance_lets_small_changes_pass(side_by_side) -> None:
    before, after = side_by_side(full=(380, 1.0e-6)), side_by_side(full=(380, 1.1e-6))

    assert any(each.worse for each in compared(pairs_of(before, after)))
    assert not any(each.worse for each in compared(pairs_of(before, after), tolerance=0.2))


def test_better_is_told_apart_from_worse(side_by_side) -> None:
    changes = compared(pairs_of(side_by_side(full=(350, 2e-6)), side_by_side(full=(390, 1e-6))))

    assert comparison.said(changes) == "Better: accuracy of full, cost of 1,000 rows of full."


def test_runs_with_one_policy_each_are_compared_whatever_it_is(side_by_side) -> None:
    (pair,) = pairs_of(side_by_side(full=(380, 2e-6)), side_by_side(early_exit=(380, 1e-6)))

    assert pair.name == "full → early_exit"


def test_what_else_differs_is_told(side_by_side) -> None:
    before, after = side_by_side(full=(380, 1e-6)), side_by_side(full=(380, 1e-6))
    after.plan = dataclasses.replace(after.plan, rate=300.0)
    after.generator.machines = ["there"]

    assert comparison.unlike(before, after) == ["rate 200.0 and 300.0", "machines here and there"]
