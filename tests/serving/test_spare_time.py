"""What may be done beside the traffic: which rows, how many, how much of it, and never while there is traffic."""

import asyncio
import time
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.members import SHORT_SECONDS
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.spec import from_mapping
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.ledger import Ledger
from serving.records import Counted
from serving.spare_time import KEPT_ROWS, STEP_ROWS, Quota, SpareTime, observed
from serving.statistics import Statistics
from serving.telemetry import Telemetry

# ------------------------------------------------------------------------------------------------------------ which and how


def quota(share: float = 1.0, budget: float = 1.0, row_bytes: int = 8, seed: int = 0) -> Quota[int]:
    return Quota(share, budget, row_bytes, Random(seed))


def took(device_seconds: float) -> Any:
    """Answers that took so much."""
    return SimpleNamespace(spent=SimpleNamespace(all_device_seconds=device_seconds))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_of_rows_is_drawn(share: float) -> None:
    drawn = quota(share).draw(100_000)
    deviation = (share * (1 - share) * 100_000) ** 0.5

    assert abs(len(drawn) - share * 100_000) < 4 * deviation
    assert drawn == sorted(set(drawn))


def test_all_rows_or_none() -> None:
    assert quota(1.0).draw(5) == [0, 1, 2, 3, 4]
    assert quota(0.0).draw(10_000) == []
    assert quota(5e-324).draw(10_000) == []


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 1000))
def test_how_rows_are_batched_does_not_change_who_is_drawn(batches: list[int], seed: int) -> None:
    together, apart = quota(0.2, seed=seed), quota(0.2, seed=seed)
    drawn, start = [], 0
    for rows in batches:
        drawn += [start + row for row in apart.draw(rows)]
        start += rows

    assert drawn == together.draw(start)


def test_the_newest_row_goes_where_there_is_no_room() -> None:
    full = quota()

    assert [full.keep(row) for row in range(KEPT_ROWS + 2)] == [True] * KEPT_ROWS + [False] * 2
    assert full.take() == list(range(STEP_ROWS)), "those that have waited longest come first"
    assert full.keep(KEPT_ROWS)


def test_large_rows_have_less_room_and_a_huge_one_still_some() -> None:
    large, huge = quota(row_bytes=1 << 20), quota(row_bytes=1 << 30)

    assert [large.keep(row) for row in range(17)] == [True] * 16 + [False]
    assert [huge.keep(row) for row in range(2)] == [True, False]


def test_the_budget_is_a_share_of_what_the_answers_took() -> None:
    thrifty = quota(budget=0.05)
    thrifty.keep(1)
    assert not thrifty.due, "nothing was answered yet"

    thrifty.earn(took(1.0))
    assert thrifty.due

    thrifty.spend(0.06)
    assert not thrifty.due, "more than 5% of a second is used up"

    thrifty.earn(took(0.5))
    assert thrifty.due, "and covered again by what was answered since"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2)), max_size=50))
def test_the_budget_is_exceeded_by_one_step_at_the_most(course: list[tuple[float, float]]) -> None:
    thrifty = quota(budget=0.1)
    earned = spent = 0.0
    for answers, step in course:
        thrifty.keep(1)
        thrifty.earn(took(answers))
        earned += answers
        if thrifty.due:
            thrifty.spend(step)
            spent += step

    assert spent <= 0.1 * earned + 0.2


def test_nothing_is_due_where_no_row_waits() -> None:
    idle = quota()
    idle.earn(took(1.0))

    assert not idle.due


# --------------------------------------------------------------------------------------------------------------- never before


class Job:
    """Has so many steps to do, and lists when it did them."""

    def __init__(self, steps: int = 0, act: Callable[[], object] = lambda: None) -> None:
        self.left = steps
        self.done: list[bool] = []
        self.closed = False
        self._act = act

    def watch(self, rows: Any, counted: Counted) -> None:
        self.left += 1

    @property
    def due(self) -> bool:
        return self.left > 0

    async def step(self, batcher: Batcher) -> None:
        self.left -= 1
        self.done.append(batcher.idle)
        self._act()

    def close(self) -> None:
        self.closed = True


def serve(*jobs: Any, member: ScriptedMember | None = None) -> tuple[Batcher, SpareTime]:
    spec = from_mapping(
        {
            "name": "e",
            "labels": ["no", "yes"],
            "input": {"name": "x", "datatype": "INT64", "shape": [1]},
            "members": [{"name": "a", "model": "a/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}],
        }
    )
    ledger = Ledger(1.0)
    spare_time = SpareTime(jobs)
    books = Books(ledger, Telemetry(ledger), Statistics())
    batcher = Batcher(spec, [member or ScriptedMember("a", [Step(always(1, 2))])], books, watchers=[spare_time.watch])
    spare_time.start(batcher)
    return batcher, spare_time


async def ask(batcher: Batcher) -> int:
    now = time.perf_counter()
    entry = Entry(np.zeros((1, 1), np.int64), "full", now, now + 60)
    batcher.submit(entry)
    counted, start = await entry.future
    return int(counted.result.label_index[start])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def test_what_answers_bring_is_done_once_there_is_no_traffic() -> None:
    job = Job()
    batcher, spare_time = serve(job)

    assert [await ask(batcher) for _ in range(3)] == [1, 1, 1]
    await until(lambda: len(job.done) == 3)
    assert job.done == [True] * 3
    spare_time.stop()


async def test_nothing_is_done_while_a_request_is_under_way() -> None:
    opened = asyncio.Event()

    class Slow(ScriptedMember):
        def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
            return False

        async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
            await opened.wait()
            return await super().run(rows, occupation)

    job = Job()
    batcher, spare_time = serve(job, member=Slow("a", [Step(always(1, 2))]))
    answer = asyncio.ensure_future(ask(batcher))
    await asyncio.sleep(0.01)
    job.left = 1
    spare_time._due.set()
    await asyncio.sleep(0.05)
    assert job.done == []

    opened.set()
    assert await answer == 1
    await until(lambda: len(job.done) == 2)
    spare_time.stop()


async def test_jobs_take_turns() -> None:
    order: list[str] = []
    first, second = Job(3, lambda: order.append("first")), Job(3, lambda: order.append("second"))
    _, spare_time = serve(first, second)
    await until(lambda: not first.left + second.left)

    assert order == ["first", "second"] * 3
    spare_time.stop()


async def test_a_job_that_breaks_keeps_neither_the_others_nor_itself_from_going_on() -> None:
    def fail() -> None:
        raise ValueError("broken")

    broken, sound = Job(2, fail), Job(2)
    _, spare_time = serve(broken, sound)
    await until(lambda: not broken.left + sound.left)

    assert len(broken.done) == len(sound.done) == 2
    spare_time.stop()


async def test_an_answer_does_not_suffer_from_who_looks_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Job):
        def watch(self, rows: Any, counted: Counted) -> None:
            raise ValueError("broken")

    batcher, spare_time = serve(Broken())

    assert await ask(batcher) == 1
    assert "watching the answers of e broke; this is a bug" in caplog.text
    spare_time.stop()


async def test_after_the_stop_nothing_is_done_any_more() -> None:
    job = Job()
    batcher, spare_time = serve(job)
    spare_time.stop()
    spare_time.stop()

    assert await ask(batcher) == 1
    await asyncio.sleep(0.02)
    assert (job.done, job.closed) == ([], True)


async def test_a_member_that_hangs_is_given_up() -> None:
    class Hanging(ScriptedMember):
        async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
            await asyncio.Event().wait()

    batcher, spare_time = serve(member=Hanging("a", [Step(always(1, 2))]))

    assert await observed(batcher, np.zeros((3, 1), np.int64), batcher.members, "audit", patience=0.01) == (0.01, None)
    spare_time.stop()


async def test_members_that_do_not_answer_give_no_columns() -> None:
    batcher, spare_time = serve(member=ScriptedMember("a", [Step(always(1, 2), fault="broken"), Step(always(1, 2))]))
    rows = np.zeros((3, 1), np.int64)

    seconds, columns = await observed(batcher, rows, batcher.members, "audit")
    assert columns is None
    seconds, columns = await observed(batcher, rows, batcher.members, "audit")
    assert columns is not None
    assert (len(columns), columns[0].shape, seconds > 0) == (1, (3, 2), True)
    spare_time.stop()
