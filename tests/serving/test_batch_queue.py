"""What waits, and what runs next: entries and a time in, a batch out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch_queue import PATIENCE, Backlog, BatchQueue


@dataclass(eq=False)
class Waiting:
    """A request, by name. `-` stands for the policy that most ask for."""

    name: str
    count: int = 1
    policy: str = "-"
    deadline: float = 10.0
    gone: bool = False
    arrived: float = 0.0
    rows: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rows = np.zeros((self.count, 2))


W = Waiting
NOW = 5.0


def taken(*entries: Waiting, size: int = 4) -> tuple[str, str, str]:
    """The names of who runs, who has expired and who still waits."""
    queue: BatchQueue[Waiting] = BatchQueue(size, 1000)
    for entry in entries:
        queue.push(entry)
    result = queue.take(NOW)
    assert queue.rows == sum(entry.count for entry in queue)
    return names(result.batch), names(result.expired), names(queue)


def names(entries: Any) -> str:
    return "".join(entry.name for entry in entries)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ("", "", "")),
        ([W("a")], ("a", "", "")),
        ([W("a"), W("b"), W("c")], ("abc", "", "")),
        ([W("a"), W("b"), W("c"), W("d"), W("e")], ("abcd", "", "e")),
        ([W("a", 4), W("b")], ("a", "", "b")),
        ([W("a", 2), W("b", 2), W("c")], ("ab", "", "c")),
    ],
)
def test_the_oldest_come_first_as_far_as_they_fit(entries: list[Waiting], expected: tuple[str, str, str]) -> None:
    assert taken(*entries) == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([W("a", 2), W("b", 3)], ("a", "", "b")),
        ([W("a", 2), W("b", 3), W("c")], ("a", "", "bc")),  # nobody overtakes the one that did not fit
        ([W("a", 3), W("b", 2), W("c", 1)], ("a", "", "bc")),
    ],
)
def test_what_does_not_fit_waits_and_is_not_overtaken(entries: list[Waiting], expected: tuple[str, str, str]) -> None:
    assert taken(*entries) == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([W("a", policy="x"), W("b", policy="y")], ("a", "", "b")),
        ([W("a", policy="x"), W("b", policy="y"), W("c", policy="x")], ("ac", "", "b")),
        ([W("a", policy="x"), W("b", policy="y"), W("c", policy="z"), W("d", policy="y")], ("a", "", "bcd")),
        ([W("a", policy="x"), W("b", policy="y"), W("c", 4, policy="x"), W("d", policy="x")], ("a", "", "bcd")),
    ],
)
def test_policies_do_not_mix(entries: list[Waiting], expected: tuple[str, str, str]) -> None:
    assert taken(*entries) == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([W("a", deadline=4.9)], ("", "a", "")),
        ([W("a", deadline=5.0)], ("", "a", "")),  # at its deadline nothing can be answered in time any more
        ([W("a", deadline=5.1)], ("a", "", "")),
        ([W("a", gone=True)], ("", "", "")),
        ([W("a", gone=True, deadline=1)], ("", "", "")),  # nobody waits to be told that it is late
        ([W("a", 4, deadline=1), W("b", 4)], ("b", "a", "")),  # and it takes no room
        ([W("a", 4, gone=True), W("b", 4)], ("b", "", "")),
        ([W("a", 9, deadline=1), W("b", 9, gone=True), W("c")], ("c", "a", "")),
        ([W("a", deadline=1, policy="x"), W("b", policy="y"), W("c", policy="y")], ("bc", "a", "")),
        ([W("a"), W("b", deadline=1, policy="y"), W("c", gone=True, policy="y"), W("d")], ("ad", "b", "")),
        ([W("a", deadline=1), W("b", gone=True), W("c", deadline=2)], ("", "ac", "")),
    ],
)
def test_the_gone_and_the_expired_leave_before_they_cost_anything(
    entries: list[Waiting], expected: tuple[str, str, str]
) -> None:
    assert taken(*entries) == expected


def test_those_who_wait_keep_their_order_from_batch_to_batch() -> None:
    queue: BatchQueue[Waiting] = BatchQueue(2, 1000)
    for name, policy in zip("abcdefgh", "xyxyyxxz", strict=True):
        queue.push(Waiting(name, policy=policy))

    assert [names(queue.take(NOW).batch) for _ in range(6)] == ["ac", "bd", "e", "fg", "h", ""]


def test_a_request_that_comes_later_joins_behind() -> None:
    queue: BatchQueue[Waiting] = BatchQueue(2, 1000)
    for name in "abc":
        queue.push(Waiting(name))
    queue.take(NOW)
    queue.push(Waiting("d"))

    assert names(queue.take(NOW).batch) == "cd"


@pytest.mark.parametrize(
    ("waiting", "rows", "fits"),
    [(0, 1, True), (0, 8, True), (0, 9, False), (7, 1, True), (7, 2, False), (8, 0, True), (8, 1, False)],
)
def test_so_many_rows_may_wait(waiting: int, rows: int, fits: bool) -> None:
    queue: BatchQueue[Waiting] = BatchQueue(4, 8)
    for _ in range(waiting):
        queue.push(Waiting("a"))

    assert queue.fits(rows) is fits


def test_rows_that_ran_or_left_make_room() -> None:
    queue: BatchQueue[Waiting] = BatchQueue(4, 8)
    for entry in (W("a", 3), W("b", 2, deadline=1), W("c", 2, gone=True), W("d", 1)):
        queue.push(entry)
    assert queue.rows == 8
    queue.take(NOW)

    assert queue.rows == 0 and queue.fits(8)


def test_who_has_gone_makes_room_when_it_is_needed() -> None:
    queue: BatchQueue[Waiting] = BatchQueue(4, 8)
    for entry in (W("a", 3), W("b", 4, gone=True), W("c", 1)):
        queue.push(entry)

    assert queue.fits(4) and not queue.fits(5)
    assert (queue.rows, names(queue)) == (4, "ac")


def test_it_can_be_looked_at() -> None:
    queue: BatchQueue[Waiting] = BatchQueue(4, 8)
    for entry in (W("a", 3), W("b", 2)):
        queue.push(entry)

    assert (repr(queue), len(queue), names(queue)) == ("<BatchQueue 2 requests, 5 rows>", 2, "ab")


SIZE = 5
entries = st.builds(
    Waiting,
    name=st.just("r"),
    count=st.integers(1, SIZE),
    policy=st.sampled_from("xy"),
    deadline=st.sampled_from([1.0, 3.0, 100.0]),
    gone=st.booleans(),
)


@given(st.lists(st.one_of(entries, st.floats(0, 5)), max_size=40))
def test_every_row_that_comes_in_runs_expires_leaves_or_waits(steps: list[Waiting | float]) -> None:
    """A step is a request that arrives, or an instant at which an executor is free."""
    queue: BatchQueue[Waiting] = BatchQueue(SIZE, 1000)
    came: list[Waiting] = []
    ended: list[Waiting] = []
    for step in steps:
        before = list(queue)
        if isinstance(step, Waiting):
            queue.push(step)
            came.append(step)
            assert list(queue) == [*before, step]
            continue
        result = queue.take(step)
        kept = list(queue)
        ended += result.batch + result.expired

        assert sum(entry.count for entry in result.batch) <= SIZE
        assert len({entry.policy for entry in result.batch}) <= 1
        assert all(not entry.gone and entry.deadline > step for entry in result.batch)
        assert all(not entry.gone and entry.deadline <= step for entry in result.expired)
        alive = [entry for entry in before if not entry.gone and entry.deadline > step]
        assert result.batch[:1] == alive[:1], "the oldest that can be answered always runs"
        for part in (result.batch, result.expired, kept):
            assert part == [entry for entry in before if entry in part], "in the order of arrival"
        lost = [entry for entry in before if entry not in [*result.batch, *result.expired, *kept]]
        assert all(entry.gone for entry in lost)
        ended += lost
        assert queue.rows == sum(entry.count for entry in kept)

    assert sum(entry.count for entry in came) == sum(entry.count for entry in ended) + queue.rows
    assert len({id(entry) for entry in ended}) == len(ended), "nobody is answered twice"


@given(st.lists(entries, max_size=30))
def test_a_queue_that_is_served_runs_empty(waiting: list[Waiting]) -> None:
    queue: BatchQueue[Waiting] = BatchQueue(SIZE, 1000)
    for entry in waiting:
        queue.push(entry)
    for _ in waiting:
        queue.take(NOW)

    assert (len(queue), queue.rows) == (0, 0)


# ----------------------------------------------------------------------------------------------------------------- backlog


def filled(*lines: tuple[str, str, int], size: int = 32) -> Backlog[str]:
    backlog: Backlog[str] = Backlog(size)
    for key, item, rows in lines:
        backlog.put(key, item, rows)
    return backlog


def test_an_empty_backlog_gives_nothing() -> None:
    assert filled().take(others=0) == []


def test_when_nobody_else_waits_what_is_there_runs() -> None:
    backlog = filled(("s", "a", 3))

    assert (backlog.rows, backlog.take(others=0), backlog.rows) == (3, ["a"], 0)


def test_rows_of_one_line_run_together_as_far_as_they_fit() -> None:
    backlog = filled(("s", "a", 12), ("s", "b", 12), ("s", "c", 12), ("s", "d", 1))

    assert backlog.take(others=0) == ["a", "b"], "in their order"
    assert backlog.take(others=0) == ["c", "d"]


def test_lines_do_not_mix() -> None:
    backlog = filled(("s", "a", 3), ("t", "b", 5), ("s", "c", 1))

    assert [sorted(backlog.take(others=0)) for _ in range(2)] == [["b"], ["a", "c"]]


def test_the_fuller_batch_goes_first() -> None:
    backlog = filled(("s", "a", 8))

    assert backlog.take(others=9) == []
    assert backlog.take(others=8) == ["a"], "of equals, the one that is nearer its end"


def test_more_than_a_batch_holds_makes_nobody_fuller() -> None:
    assert filled(("s", "a", 32)).take(others=1000) == ["a"]


def test_nobody_is_passed_over_for_ever() -> None:
    backlog = filled(("s", "a", 1), ("t", "b", 2))
    turns = [backlog.take(others=32) for _ in range(PATIENCE + 2)]

    assert turns[:PATIENCE] == [[]] * PATIENCE
    assert sorted(turns[PATIENCE:]) == [["a"], ["b"]]


def test_however_many_fuller_lines_are_refilled_none_is_passed_over_for_ever() -> None:
    fuller = [str(line) for line in range(2 * PATIENCE)]
    backlog = filled(("s", "a", 1), *((line, line, 2) for line in fuller))
    turns: list[str] = []
    while "a" not in turns and len(turns) < PATIENCE * len(fuller):
        turns += backlog.take(others=0)
        backlog.put(turns[-1], turns[-1], 2)

    assert "a" in turns
