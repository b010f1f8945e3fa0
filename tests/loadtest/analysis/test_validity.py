"""A run is invalid where the generator did not do what it was to do."""

import dataclasses

import pytest

from loadtest import validity


def test_a_run_that_went_as_planned_is_valid(simulated) -> None:
    assert validity.reasons(simulated(0)) == []


def test_lateness_of_more_than_a_millisecond_is_told(simulated) -> None:
    run = simulated(0)
    run.arms[0].lateness.record(0.004, run.arms[0].requests // 50)

    (reason,) = validity.reasons(run)
    assert reason.startswith("the generator was late: p99 of lateness 4 ms, expected at most 1 ms")


def test_lateness_may_be_a_twentieth_of_a_long_latency(simulated) -> None:
    run = simulated(0, rate=4.0, service_rate=5.0, seconds=200.0)
    run.arms[0].lateness.record(0.004, run.arms[0].requests // 20)

    assert validity.reasons(run) == []


def test_a_rate_that_was_not_reached_is_told(simulated) -> None:
    run = simulated(0)
    run.plan = dataclasses.replace(run.plan, requests=run.plan.requests * 2)

    (reason,) = validity.reasons(run)
    sent = run.arms[0].requests
    assert reason == f"the generator fell short: sent {sent:,} of {2 * sent:,} planned requests, expected at least 99%"


def test_a_run_that_was_cut_short_is_not_blamed_for_what_it_did_not_send(simulated) -> None:
    run = simulated(0)
    run.plan, run.stopped = dataclasses.replace(run.plan, requests=10**6), "interrupted after 3 s"

    assert validity.reasons(run) == []


def test_a_generator_without_cpu_is_told(simulated) -> None:
    run = simulated(0)
    run.generator.busiest = 0.99

    assert validity.reasons(run) == [
        "the generator had no CPU left: 99% of a core, expected at most 95%; more --workers, or a lower rate"
    ]


def test_a_closed_loop_has_no_plan_to_be_late_for(simulated) -> None:
    run = simulated(0)
    run.plan = dataclasses.replace(run.plan, rate=None, concurrency=8, requests=0)
    run.arms[0].lateness.record(1.0, run.arms[0].requests)

    assert validity.reasons(run) == []


@pytest.mark.parametrize(("shards", "missing"), [([1, 3], "2"), ([1, 2], "3")])
def test_missing_shards_are_told(simulated, shards, missing) -> None:
    run = simulated(0)
    run.shards, run.of_shards = shards, 3

    assert validity.reasons(run) == [f"shards are missing: {missing} of 3"]
