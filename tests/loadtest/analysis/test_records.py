"""What is recorded of requests: every one counts, where it was planned, and shards add up to the run."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import merging
from loadtest.merging import MergeError, merged
from loadtest.records import ArmRecord, Generator, Plan, RunRecord

EVENTS = st.lists(
    st.tuples(
        st.floats(0, 20),
        st.floats(0, 0.1),
        st.floats(0, 3),
        st.sampled_from(["answered", "answered", "failed", "unfinished", "unsent"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=60,
)
END = 25.0


def replay(arm: ArmRecord, event: tuple) -> None:
    planned, late, service, outcome, row = event
    if outcome == "unsent":
        arm.unsent(planned, END)
        return
    arm.sent(planned, planned + late)
    done = planned + late + service
    if outcome == "failed":
        arm.failed(planned, done, ["UNAVAILABLE", "429"][row % 2])
    elif outcome == "unfinished":
        arm.unfinished(planned, END)
    else:
        arm.answered(planned, planned + late, done, rows=2)
        arm.charge(done, 2, 0.25, 0.5)
        arm.answers.note(row, row % 3)
        arm.partial += row == 0


def run_of(events: list[tuple], shard: int = 1, of: int = 1, **given) -> RunRecord:
    arms = [ArmRecord("full"), ArmRecord("member:cnn")]
    for number, event in enumerate(events):
        replay(arms[number % 2], event)
    plan = Plan("poisson", 10.0, None, 20.0, requests=len(events))
    return RunRecord(
        **{
            "target": "grpc://a:1/digits",
            "seed": 3,
            "schedule_sha256": "ab",
            "plan": plan,
            "arms": arms,
            "started_at": 1e9,
            "ended_at": 1e9 + END,
            "generator": Generator(1.0, 20.0, 0.05, ["here"]),
            "shards": [shard],
            "of_shards": of,
        }
        | given
    )


def test_every_request_ends_as_one_of_three() -> None:
    run = run_of([(1.0, 0.001, 0.01, outcome, 1) for outcome in ("answered", "failed", "unfinished", "unsent")] * 5)
    for arm in run.arms:
        assert arm.requests == arm.latency.count + sum(arm.errors.values()) + arm.censored.count == 10


def test_latency_counts_from_the_planned_instant_and_service_from_sending() -> None:
    arm = ArmRecord("full")
    arm.sent(1.0, 1.5)
    arm.answered(1.0, 1.5, 1.75, rows=1)

    assert arm.latency.quantile(0.5) == pytest.approx(0.75, rel=1e-3)
    assert arm.service.quantile(0.5) == pytest.approx(0.25, rel=1e-3)
    assert arm.lateness.quantile(0.5) == pytest.approx(0.5, rel=1e-3)


def test_a_request_without_an_answer_counts_with_its_age() -> None:
    arm = ArmRecord("full")
    arm.sent(1.0, 1.0)
    arm.unfinished(1.0, 4.0)

    assert arm.delays.quantile(1.0) == 3.0
    assert arm.latency.count == 0


def test_failures_are_timed_by_code() -> None:
    arm = ArmRecord("full")
    for code, done in (("429", 1.001), ("504", 2.0), ("429", 1.002)):
        arm.failed(1.0, done, code)

    assert arm.errors == {"429": 2, "504": 1}
    assert arm.failures["429"].quantile(1.0) == pytest.approx(0.002, rel=1e-3)
    assert arm.failures["504"].quantile(1.0) == pytest.approx(1.0, rel=1e-3)


def test_the_time_line_tells_what_was_due_from_what_happened() -> None:
    arm = ArmRecord("full")
    arm.sent(0.5, 1.25)
    arm.answered(0.5, 1.25, 2.5, rows=1)

    assert [(slot.due, slot.sent, slot.done, slot.latency.count) for slot in arm.timeline] == [
        (1, 0, 0, 1),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
    ]


@given(EVENTS, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_n_shards_merged_equal_one_run(events: list[tuple], n: int, order: random.Random) -> None:
    """Two policies, n shards: shard i takes every n-th pair of requests; all sums here are exact in floating point."""
    events = events[: len(events) - len(events) % 2]
    pairs = [events[place : place + 2] for place in range(0, len(events), 2)]
    shards = [
        run_of(
            [event for pair in pairs[shard::n] for event in pair],
            shard + 1,
            n,
            generator=Generator(1.0 / n, 20.0 / n, 0.05, ["here"]),
        )
        for shard in range(n)
    ]
    order.shuffle(shards)
    whole = run_of(events, generator=Generator(1.0, 20.0, 0.05, ["here"]))
    found = merged(shards)

    assert [dataclasses.replace(arm) for arm in found.arms] == whole.arms
    assert found.plan.requests == whole.plan.requests
    assert found.generator.cpu_seconds == pytest.approx(1.0)
    assert found.shards == list(range(1, n + 1))


def test_merging_leaves_the_shards_as_they_were() -> None:
    shards = [run_of([(1.0, 0.0, 0.1, "answered", 1)] * 4, number, 2) for number in (1, 2)]
    before = shards[0].arms[0].requests
    merged(shards)

    assert shards[0].arms[0].requests == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 4}, "found seed 4, expected 3 as in a.json"),
        ({"target": "grpc://b:1/digits"}, "found target grpc://b:1/digits, expected grpc://a:1/digits as in a.json"),
        ({"schedule_sha256": "cd"}, "found schedule_sha256 cd, expected ab as in a.json"),
        ({"of_shards": 3}, "found of_shards 3, expected 2 as in a.json"),
        ({"shards": [1]}, "found shard 1 of 2, which a.json holds already; expected each shard once"),
        ({"started_at": 1e9 + 5}, "found a start 5.0 s from that of a.json, expected the same moment"),
        ({"plan": Plan("constant", 10.0, None, 20.0)}, "found arrivals constant, expected poisson as in a.json"),
        ({"arms": [ArmRecord("full")]}, "found policies ['full'], expected ['full', 'member:cnn'] as in a.json"),
    ],
)
def test_what_is_no_shard_of_the_same_run_is_refused(changed: dict, told: str) -> None:
    first = run_of([(1.0, 0.0, 0.1, "answered", 1)] * 4, 1, 2)
    other = run_of(
        [(1.0, 0.0, 0.1, "answered", 1)] * 4,
        2,
        2,
        **{key: value for key, value in changed.items() if key != "of_shards"},
    )
    other = dataclasses.replace(other, **changed)
    with pytest.raises(MergeError) as fault:
        merged([first, other], ["a.json", "b.json"])

    assert str(fault.value).startswith(f"b.json: {told}")


def test_no_runs_make_no_run() -> None:
    with pytest.raises(MergeError, match="expected the results of at least one shard"):
        merging.merged([])


def test_arms_of_other_policies_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="found policy full in slots of 1 s, expected member:cnn in slots of 1 s"):
        ArmRecord("member:cnn").merge(ArmRecord("full"))
