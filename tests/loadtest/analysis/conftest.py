"""Runs against a simulated server: one queue, exponential service, whose waiting times are known exactly."""

import numpy as np
import pytest

from loadtest.records import ArmRecord, Generator, Plan, RunRecord

WARM_UP = 5.0
ROWS = 400


def waits(rng, rate, service_rate, seconds):
    """Planned instants and latencies of Poisson arrivals at one server (Lindley's recursion), after a warm-up."""
    n = rng.poisson(rate * (seconds + WARM_UP))
    planned = np.sort(rng.random(n)) * (seconds + WARM_UP) - WARM_UP
    done_if_never_idle = np.cumsum(rng.exponential(1 / service_rate, n))
    idle_until = np.maximum.accumulate(planned - np.concatenate([[0.0], done_if_never_idle[:-1]]))
    counted = planned >= 0
    return planned[counted], (idle_until + done_if_never_idle - planned)[counted]


def record(policy, planned, latency, right=None, cost=0.0, rng=None):
    """An arm as the runner would have recorded it, but all at once. `right`: [rows] of bool, whether it answers each rightly."""
    arm = ArmRecord(policy, requests=len(planned), rows=len(planned))
    arm.latency.record_all(latency)
    arm.service.record_all(latency)
    arm.lateness.record(2e-5, len(planned))
    done = planned + latency
    for place in range(int(done.max()) + 1):
        due, finished = (planned >= place) & (planned < place + 1), (done >= place) & (done < place + 1)
        slot = arm.slot(place)
        slot.latency.record_all(latency[due])
        slot.due = slot.sent = int(due.sum())
        slot.done = int(finished.sum())
        if cost:
            spent = slot.done * cost * rng.uniform(0.97, 1.03)
            slot.spending.add(slot.done, spent * 36_000, spent)
            arm.spending.add(slot.done, spent * 36_000, spent)
    for row, fine in enumerate(right if right is not None else ()):
        arm.answers.note(row, row % 10 if fine else (row + 1) % 10)
    arm.first_sent, arm.last_done = float(planned.min()), float(done.max())
    return arm


def run_of(*arms, seconds=60.0, rate=500.0, **given):
    truth = {row: row % 10 for row in range(ROWS)} if any(arm.answers.counts for arm in arms) else {}
    return RunRecord(
        **{
            "target": "grpc://localhost:8001/digits",
            "seed": 0,
            "schedule_sha256": "0" * 64,
            "plan": Plan("poisson", rate, None, seconds, requests=sum(arm.requests for arm in arms)),
            "arms": list(arms),
            "started_at": 1.8e9,
            "ended_at": 1.8e9 + max((arm.last_done for arm in arms), default=0.0),
            "generator": Generator(6.0, 60.0, 0.1, ["here"]),
            "labels": list("0123456789"),
            "truth": truth,
            "data": "digits.npz" if truth else "",
        }
        | given
    )


@pytest.fixture(scope="session")
def simulated():
    """`simulated(seed, rate, service_rate, seconds)`: a run of one policy; `slower` stretches all above the 90th percentile."""

    def simulate(
        seed, rate=400.0, service_rate=1000.0, seconds=60.0, slower=1.0, policy="full", accuracy=None, cost=0.0
    ):
        rng = np.random.default_rng(seed)
        planned, latency = waits(rng, rate, service_rate, seconds)
        latency = np.where(latency > np.quantile(latency, 0.9), latency * slower, latency)
        right = rng.random(ROWS) < accuracy if accuracy is not None else None
        return run_of(record(policy, planned, latency, right, cost, rng), seconds=seconds, rate=rate)

    return simulate


@pytest.fixture(scope="session")
def side_by_side():
    """`side_by_side(full=(n_right, cost), **others)`: a run of several policies that are right on their first so many rows."""

    def simulate(seconds=10.0, seed=0, **policies):
        rng = np.random.default_rng(seed)
        arms = []
        for name, (right, cost) in policies.items():
            planned, latency = waits(rng, 200.0, 1000.0, seconds)
            arms.append(
                record(name.replace("member_", "member:"), planned, latency, np.arange(ROWS) < right, cost, rng)
            )
        return run_of(*arms, seconds=seconds, rate=200.0 * len(arms))

    return simulate
