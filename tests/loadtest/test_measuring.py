from pathlib import Path

import numpy as np
import pytest

from loadtest import measuring
from loadtest.data import Data
from loadtest.jobs import Course
from loadtest.measuring import Load
from loadtest.schedule import Arrivals, steady
from loadtest.target import Target
from loadtest.targets.address import parse
from loadtest.targets.answers import Description
from loadtest.targets.opening import TargetOptions

TARGET = Target(
    parse("grpc://localhost/digits"),
    TargetOptions(),
    Description("digits", "", "UINT8", (4,)),
    ("full", "cheap"),
    ("full", "cheap"),
    Path("data.npz"),
    Data(np.zeros((5, 4), np.uint8), None, "data.npz"),
)
COURSE = Course(Arrivals.POISSON, steady(100, 3.0))


def test_the_workers_of_all_shards_send_the_whole_schedule_and_nothing_twice() -> None:
    whole = COURSE.schedule(5, 2)
    parts = [
        job.schedule()
        for shard in (1, 2, 3)
        for job in measuring.shared(TARGET, Load(COURSE, 3.0, 5, workers=2, shard=shard, of_shards=3))
    ]

    assert len(parts) == 6
    assert sorted(np.concatenate([part.nanoseconds for part in parts])) == sorted(whole.nanoseconds)
    assert sum(len(part) for part in parts) == len(whole)


def test_callers_of_a_closed_loop_are_shared_among_workers() -> None:
    jobs = measuring.shared(TARGET, Load(None, 3.0, concurrency=5, workers=3))

    assert [job.concurrency for job in jobs] == [2, 2, 1]


@pytest.mark.parametrize(("duration", "slot"), [(1, 0.1), (6, 0.2), (20, 0.5), (30, 1.0), (600, 1.0), (6000, 10.0)])
def test_a_time_line_has_slots_enough_and_not_too_many(duration, slot) -> None:
    assert measuring.slot_seconds(duration) == slot


def test_the_plan_says_what_this_shard_is_to_send() -> None:
    whole = COURSE.schedule(5, 2)
    plan = measuring.plan(TARGET, Load(COURSE, 3.0, 5, shard=2, of_shards=3, workers=2), whole)

    assert plan.requests == len(whole.part(2, 3))
    assert (plan.rate, plan.arrivals, plan.connections) == (100, "poisson", 8)
