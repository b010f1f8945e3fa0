"""One ensemble's queue and members at work: scripted members for what may go wrong, real ones for what is right.

Whatever has to happen while a batch is computed is done by the answer of a scripted member itself, so nothing hangs on timing.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest

from ensembles.members import SHORT_SECONDS, Member
from ensembles.members.onnx import OnnxMember
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from ensembles.spec import EnsembleSpec, from_mapping
from ensembles.votes import vote
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.errors import BelowQuorum, DeadlinePassed
from serving.ledger import Ledger
from serving.records import Counted, Outcome
from serving.stages import CROWDED_SECONDS, UNHURRIED_SECONDS
from serving.statistics import Statistics
from serving.telemetry import Telemetry

CLASSES = 10
BRIEF = pytest.mark.parametrize("delay", [0.0, 0.001], ids=["on the loop", "at once"])


def spec(members: Sequence[str], quorum: int = 1, max_batch_size: int = 64) -> EnsembleSpec:
    return from_mapping(
        {
            "name": "e",
            "labels": [str(label) for label in range(CLASSES)],
            "input": {"name": "x", "datatype": "INT64", "shape": [1]},
            "members": [
                {"name": name, "model": f"{name}/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}
                for name in members
            ],
            "vote": {"quorum": quorum, "rule": "majority"},
            "limits": {"max_batch_size": max_batch_size},
        }
    )


def books(ledger: Ledger | None = None) -> Books:
    ledger = ledger or Ledger(1.0)
    return Books(ledger, Telemetry(ledger), Statistics())


def batcher(*members: Member, quorum: int = 1, max_batch_size: int = 64, executors: int = 1) -> Batcher:
    return Batcher(spec([m.name for m in members], quorum, max_batch_size), members, books(), executors)


def rows(*values: int) -> Any:
    return np.array(values, np.int64)[:, None]


def echo(rows: Any) -> Any:
    """Each row is its own class, so that a caller can tell whether the answer is his."""
    return np.eye(CLASSES, dtype=np.float32)[rows[:, 0]]


def member(name: str, *steps: Step, delay: float = 0.0) -> ScriptedMember:
    return ScriptedMember(name, steps or [Step(echo, delay)])


def meanwhile(act: Callable[[], object], delay: float = 0.0) -> Step:
    """A right answer, and something that happens while it is computed."""

    def answer(rows: Any) -> Any:
        act()
        return echo(rows)

    return Step(answer, delay)


def entry(values: Sequence[int], policy: str = "full", seconds: float = 60.0) -> Entry:
    now = time.perf_counter()
    return Entry(rows(*values), policy, now, now + seconds)


async def ask(server: Batcher, values: Sequence[int], policy: str = "full", seconds: float = 60.0) -> list[int]:
    """The labels of these rows, as one caller gets them."""
    waiting = entry(values, policy, seconds)
    server.submit(waiting)
    counted, start = await waiting.future
    return counted.result.label_index[start : start + len(values)].tolist()


def caller(server: Batcher, *values: int, policy: str = "full") -> asyncio.Task[list[int]]:
    return asyncio.ensure_future(ask(server, values, policy))


async def count_once(server: Batcher, *values: int, policy: str = "full") -> Counted:
    waiting = entry(values or (0,), policy)
    server.submit(waiting)
    return (await waiting.future)[0]


def with_outcome(counted: Counted, outcome: Outcome) -> list[str]:
    return [run.member for run in counted.runs if run.outcome is outcome]


class Patient(ScriptedMember):
    """Notes how long a run of it may hold the event loop."""

    def __init__(self, name: str) -> None:
        super().__init__(name, [Step(echo)])
        self.at_most: list[float] = []

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        self.at_most.append(at_most)
        return True


@pytest.mark.parametrize(
    ("members", "cores", "waiting", "seconds"),
    [
        (2, 1, 2, UNHURRIED_SECONDS),
        (1, 2, 2, UNHURRIED_SECONDS),
        (2, 2, 0, SHORT_SECONDS),
        (2, 1, 3, CROWDED_SECONDS),
        (1, 2, 3, SHORT_SECONDS),
    ],
    ids=["one core", "one member", "several side by side", "one core and a crowd", "one member and a crowd"],
)
async def test_a_run_holds_the_event_loop_longer_only_where_that_holds_nobody_up(
    members: int, cores: int, waiting: int, seconds: float
) -> None:
    crew = [Patient(name) for name in "ab"[:members]]
    server = Batcher(spec([m.name for m in crew], max_batch_size=2), crew, books(), cores=cores)
    await asyncio.gather(*(caller(server, 0) for _ in range(2 + waiting)))

    assert crew[0].at_most[0] == seconds
    assert crew[0].at_most[-1] == (SHORT_SECONDS if members == cores == 2 else UNHURRIED_SECONDS)


class Sized(ScriptedMember):
    """Says that a run takes `whole` seconds for 64 rows, of which `fixed` whatever its size."""

    def __init__(self, name: str, whole: float, *steps: Step, fixed: float = 0.0, device: str = "cpu") -> None:
        super().__init__(name, steps or [Step(echo)], device)
        self._fixed, self._row = fixed, (whole - fixed) / 64

    def predict(self, rows: int) -> float:
        return self._fixed + rows * self._row

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return self.predict(rows) < at_most


def on_one_core(*members: Member) -> Batcher:
    return Batcher(spec([m.name for m in members]), members, books(), cores=1)


@pytest.mark.parametrize(
    ("member", "pieces"),
    [
        (Sized("a", 0.004), [64]),
        (Sized("a", 0.008), [32, 32]),
        (Sized("a", 0.036), [8] * 8),
        (Sized("a", 0.044), [64]),
        (Sized("a", 0.008, fixed=0.001), [32, 32]),
        (Sized("a", 0.008, fixed=0.004), [64]),
        (Sized("a", 0.008, device="cuda:0"), [64]),
    ],
    ids=["brief", "longer", "far longer", "too long", "costs a little more", "would cost far more", "not on the core"],
)
async def test_on_one_core_a_longer_run_is_made_in_pieces_that_others_get_in_between(
    member: Sized, pieces: list[int]
) -> None:
    values = [number % CLASSES for number in range(64)]

    assert await ask(on_one_core(member), values) == values
    assert member.ran == pieces


async def test_in_a_crowd_pieces_are_smaller() -> None:
    a = Sized("a", 0.008)
    server = on_one_core(a)
    values = [number % CLASSES for number in range(50)]

    assert await asyncio.gather(*(ask(server, values) for _ in range(3))) == [values] * 3
    assert a.ran == [8] * 6 + [2] + [32, 18] * 2, "100 rows wait behind the first request, and more than a batch holds"


async def test_with_cores_to_spare_a_longer_run_is_made_whole_beside_the_event_loop() -> None:
    a = Sized("a", 0.008)

    assert len(await ask(batcher(a, member("b")), [0] * 64)) == 64
    assert a.ran == [64]


async def test_a_piece_that_goes_wrong_fails_its_member_alone(caplog: pytest.LogCaptureFixture) -> None:
    short = Step(lambda rows: echo(rows)[:-1])
    a, b = Sized("a", 0.008, Step(echo), short), Sized("b", 0.008)
    counted = await count_once(on_one_core(a, b), *[3] * 64)

    assert with_outcome(counted, Outcome.FAILED) == ["a"]
    assert counted.result.label_index.tolist() == [3] * 64
    assert "member e.a failed: found scores of shape [31, 10] for 32 rows" in caplog.text
    assert "bug" not in caplog.text


async def test_a_run_that_began_on_the_event_loop_stays_there_however_slow_it_turns_out_to_be() -> None:
    class Slowing(Sized):
        allowed: list[float] = []

        async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
            self.allowed.append(at_most)
            self._row *= 10
            return await super().run(rows, occupation, at_most)

    a = Slowing("a", 0.008)
    assert await ask(on_one_core(a), [1] * 64) == [1] * 64
    assert a.allowed == [float("inf")] * 2, "elsewhere, nobody would watch over it"


async def test_what_nobody_waits_for_any_more_goes_no_further() -> None:
    callers: list[asyncio.Task[list[int]]] = []
    a, b = Sized("a", 0.036, Step(echo), meanwhile(lambda: callers[0].cancel())), Sized("b", 0.036)
    server = on_one_core(a, b)
    callers.append(caller(server, *[1] * 64))

    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    assert await ask(server, [2]) == [2]
    assert (a.ran, b.ran) == ([8, 8, 1], [1])
    wasted = [line for line in server._books.telemetry.exposition().decode().splitlines() if "wasted" in line]
    assert any('reason="cancelled"' in line for line in wasted)


async def test_a_member_that_voted_is_heard_though_nobody_waits_for_the_others() -> None:
    callers: list[asyncio.Task[list[int]]] = []
    broken, voted = Step(echo, fault="no"), meanwhile(lambda: callers[0].cancel(), 0.002)
    a = ScriptedMember("a", [broken, broken, voted, broken, Step(echo)])
    a.brief = lambda rows, at_most=SHORT_SECONDS: True  # type: ignore[method-assign]
    server = on_one_core(a, member("b"))
    for _ in range(2):
        await ask(server, [1])
    callers.append(caller(server, 1))
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    await ask(server, [1])

    assert server.present == [True, True], "its three faults were not in a row"


# ----------------------------------------------------------------------------------------------------------------- batches


@BRIEF
async def test_requests_that_wait_together_run_together_and_each_gets_its_own_answer(delay: float) -> None:
    a, b = member("a", delay=delay), member("b", delay=delay)
    server = batcher(a, b)

    answers = await asyncio.gather(*(ask(server, values) for values in ([3], [1, 4], [1], [5, 9, 2])))
    assert answers == [[3], [1, 4], [1], [5, 9, 2]]
    assert a.ran == b.ran == [7]


async def test_a_lone_request_runs_at_once() -> None:
    a = member("a")
    server = batcher(a)

    assert [await ask(server, [value]) for value in (7, 8)] == [[7], [8]]
    assert a.ran == [1, 1]


@BRIEF
async def test_what_arrives_while_a_batch_runs_joins_the_next_batch(delay: float) -> None:
    late: list[asyncio.Task[list[int]]] = []
    a = member("a", meanwhile(lambda: late.extend(caller(server, v) for v in (4, 5, 6)), delay), Step(echo, delay))
    server = batcher(a, member("b", delay=delay))

    assert await ask(server, [1]) == [1]
    assert await asyncio.gather(*late) == [[4], [5], [6]]
    assert a.ran == [1, 3]


async def test_a_batch_is_no_larger_than_allowed() -> None:
    a = member("a")
    server = batcher(a, max_batch_size=4)

    assert await asyncio.gather(*(ask(server, values) for values in ([0, 1], [2], [3, 4], [5, 6, 7, 8], [9]))) == [
        [0, 1],
        [2],
        [3, 4],
        [5, 6, 7, 8],
        [9],
    ]
    assert a.ran == [3, 2, 4, 1]


async def test_a_request_for_one_member_runs_that_member_alone() -> None:
    a, b = member("a"), member("b", Step(always(8, CLASSES)))
    counted = await count_once(batcher(a, b, quorum=2), 3, policy="member:b")

    assert counted.result.label_index.tolist() == [8]
    assert counted.result.votes.tolist() == [[-1, 8]]
    assert [run.outcome for run in counted.runs] == [Outcome.SKIPPED, Outcome.OK]
    assert (counted.policy, counted.exact.tolist()) == ("member:b", [False])
    assert (a.ran, b.ran) == ([], [1])


async def test_policies_do_not_mix_in_a_batch() -> None:
    a, b = member("a"), member("b")
    server = batcher(a, b)

    asked = [([1], "full"), ([2], "member:b"), ([3], "full"), ([4], "member:b")]
    assert await asyncio.gather(*(ask(server, *each) for each in asked)) == [[1], [2], [3], [4]]
    assert (a.ran, b.ran) == ([2], [2, 2])


async def test_members_that_take_long_run_at_once() -> None:
    begun: list[list[int]] = []
    a = member("a", meanwhile(lambda: begun.append(list(b.ran)), delay=0.001))
    b = member("b", meanwhile(lambda: begun.append(list(a.ran)), delay=0.001))
    await count_once(batcher(a, b), 1)

    assert begun == [[1], [1]], "when either answered, the other had begun"


async def test_with_two_executors_a_request_does_not_wait_for_a_slow_one() -> None:
    a = member("a", Step(echo, delay=3600), Step(echo))
    server = batcher(a, executors=2)
    slow = caller(server, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert await ask(server, [2]) == [2]
    assert (slow.done(), a.ran) == (False, [1, 1])
    slow.cancel()


async def test_what_waits_begins_once_a_member_has_left_a_core_though_nobody_new_asks() -> None:
    quick, slow = asyncio.Event(), asyncio.Event()

    class Held(ScriptedMember):
        async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
            scores = await super().run(rows, occupation, at_most)
            await (quick if self.name == "a" else slow).wait()
            return scores

    a, b = (Held(name, [Step(echo, delay=1e-6)], predicted=60.0) for name in "ab")
    server = batcher(a, b, quorum=2, max_batch_size=1, executors=2)  # a core for each member
    callers = [caller(server, value) for value in (1, 2)]
    await asyncio.sleep(0.01)
    assert (a.ran, b.ran) == ([1], [1]), "both cores are taken"

    quick.set()
    async with asyncio.timeout(10):
        while a.ran != [1, 1]:
            await asyncio.sleep(0)

    slow.set()
    assert await asyncio.gather(*callers) == [[1], [2]]


async def test_with_one_executor_the_queue_is_empty_again_and_the_next_request_is_answered() -> None:
    server = batcher(member("a"))
    for value in range(CLASSES):
        assert await ask(server, [value]) == [value]
        assert (len(server.queue), server.queue.rows) == (0, 0)


# ------------------------------------------------------------------------------------------------------- callers who leave


@BRIEF
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_one_caller_of_three_leaves_during_the_computation_and_the_others_are_answered(
    position: int, delay: float
) -> None:
    callers: list[asyncio.Task[list[int]]] = []
    a = member("a", meanwhile(lambda: callers[position].cancel(), delay), Step(echo, delay))
    b = member("b", delay=delay)
    server = batcher(a, b)
    callers += [caller(server, 3), caller(server, 1, 4), caller(server, 5, 9, 2)]

    answers: list[Any] = await asyncio.gather(*callers, return_exceptions=True)
    left = answers.pop(position)
    assert isinstance(left, asyncio.CancelledError)
    assert answers == [each for at, each in enumerate([[3], [1, 4], [5, 9, 2]]) if at != position]
    assert a.ran == b.ran == [6]
    assert await ask(server, [7]) == [7]


@BRIEF
async def test_all_callers_leave_during_the_computation_and_the_next_one_is_answered(delay: float) -> None:
    callers: list[asyncio.Task[list[int]]] = []
    a = member("a", meanwhile(lambda: [each.cancel() for each in callers], delay), Step(echo, delay))
    server = batcher(a, member("b", delay=delay))
    callers += [caller(server, 1), caller(server, 2), caller(server, 3)]

    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert await ask(server, [7]) == [7]


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_the_rows_of_a_caller_who_left_the_queue_reach_no_member(position: int) -> None:
    waiting: list[asyncio.Task[list[int]]] = []
    seen: list[list[int]] = []

    def arrive() -> None:
        waiting.extend(caller(server, value) for value in (4, 5, 6))
        asyncio.get_running_loop().call_soon(waiting[position].cancel)

    def look(rows: Any) -> Any:
        seen.append(rows[:, 0].tolist())
        return echo(rows)

    a = member("a", meanwhile(arrive, delay=0.001), Step(look))
    server = batcher(a)
    await ask(server, [1])
    await asyncio.gather(*waiting, return_exceptions=True)

    assert a.ran == [1, 2]
    assert seen == [[value for at, value in enumerate([4, 5, 6]) if at != position]]


async def test_a_request_whose_deadline_has_passed_never_runs() -> None:
    a = member("a")
    server = batcher(a)
    answers = await asyncio.gather(
        ask(server, [1]), ask(server, [2], seconds=-1.0), ask(server, [3]), return_exceptions=True
    )

    assert answers[::2] == [[1], [3]]
    assert isinstance(answers[1], DeadlinePassed)
    assert str(answers[1]) == "the deadline passed while the request waited in the queue"
    assert a.ran == [2]


async def test_a_queue_of_expired_requests_runs_nobody_and_the_next_one_is_answered() -> None:
    a = member("a")
    server = batcher(a)
    answers = await asyncio.gather(*(ask(server, [1], seconds=-1.0) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [DeadlinePassed] * 3
    assert a.ran == []
    assert await ask(server, [7]) == [7]


async def test_a_caller_who_was_told_that_it_is_late_is_not_told_twice() -> None:
    """The deadline passes while the batch runs; the batch's answer comes for the others alone."""
    entries = [entry([1]), entry([2])]
    a = member("a", meanwhile(lambda: entries[0].refuse(DeadlinePassed("late"))))
    server = batcher(a)
    for each in entries:
        server.submit(each)

    counted, start = await entries[1].future
    assert (start, counted.rows, counted.result.label_index.tolist()) == (1, 2, [1, 2])
    with pytest.raises(DeadlinePassed, match="^late$"):
        await entries[0].future


# -------------------------------------------------------------------------------------------------------- members that fail


def broken(text: str = "out of memory") -> Step:
    return Step(echo, fault=text)


def saying(scores: Any) -> Step:
    return Step(lambda rows: np.array(scores, np.float32))


NAN, INF = np.nan, np.inf
FAULTS = [
    (broken(), "out of memory"),
    (Step(echo, delay=0.001, fault="out of memory"), "out of memory"),
    (saying([[NAN] * CLASSES]), "found probabilities that sum to"),
    (saying([[INF] + [0] * 9]), "found probabilities that sum to"),
    (saying([[0.05] * CLASSES]), "found probabilities that sum to"),
    (saying([[5.0, -3.0] + [0] * 8]), "found probabilities that sum to"),
    (saying([[1.5, -0.5] + [0] * 8]), "found the probability -0.5, expected none below 0"),
    (saying([[0.2] * 5]), "found scores of shape [1, 5], expected [1, 10]"),
    (saying([[0.1] * CLASSES] * 2), "found scores of shape [2, 10], expected [1, 10]"),
    (saying([0.1] * CLASSES), "found scores of shape [10], expected [1, 10]"),
]


@pytest.mark.parametrize(("step", "fault"), FAULTS)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_member_that_fails_leaves_its_column_empty_and_the_answer_partial(
    step: Step, fault: str, position: int
) -> None:
    members = [member(name, step) if at == position else member(name) for at, name in enumerate("abc")]
    counted = await count_once(batcher(*members, quorum=2), 4)

    assert counted.result.label_index.tolist() == [4]
    assert counted.result.agreement.tolist() == [1.0], "of the weight that voted"
    assert counted.result.votes.tolist() == [[-1 if at == position else 4 for at in range(3)]]
    assert [run.outcome is Outcome.FAILED for run in counted.runs] == [at == position for at in range(3)]
    assert (counted.runs[position].fault or "").startswith(fault)
    assert counted.exact.tolist() == [True], "the third vote could not have changed it"
    assert with_outcome(counted, Outcome.FAILED) == ["abc"[position]]
    assert with_outcome(counted, Outcome.OK) == list("abc".replace("abc"[position], ""))


async def test_when_all_vote_the_answer_is_whole_and_exact() -> None:
    counted = await count_once(batcher(*map(member, "abc"), quorum=3), 4)

    assert (counted.exact.tolist(), with_outcome(counted, Outcome.OK)) == ([True], ["a", "b", "c"])


@BRIEF
@pytest.mark.parametrize(
    ("quorum", "failing", "line"),
    [
        (3, "b", "2 of 3 members voted, the quorum is 3; failed: b"),
        (2, "ac", "1 of 3 members voted, the quorum is 2; failed: a, c"),
        (1, "abc", "0 of 3 members voted, the quorum is 1; failed: a, b, c"),
    ],
)
async def test_below_the_quorum_there_is_no_answer_but_the_names_of_who_failed(
    quorum: int, failing: str, line: str, delay: float
) -> None:
    steps = {name: Step(echo, delay, fault="broken" if name in failing else None) for name in "abc"}
    server = batcher(*(member(name, step, Step(echo)) for name, step in steps.items()), quorum=quorum)
    answers = await asyncio.gather(ask(server, [1]), ask(server, [2, 3]), return_exceptions=True)

    assert [(type(answer), str(answer)) for answer in answers] == [(BelowQuorum, line)] * 2
    assert await ask(server, [7]) == [7], "and the next one is answered"


async def test_a_member_asked_alone_needs_no_quorum_but_itself() -> None:
    server = batcher(member("a", broken(), Step(echo)), member("b"), quorum=2)

    with pytest.raises(BelowQuorum, match="^0 of 1 members voted, the quorum is 1; failed: a$"):
        await ask(server, [1], "member:a")
    assert await ask(server, [1], "member:a") == [1]


@BRIEF
async def test_a_member_that_breaks_its_contract_fails_like_any_other_and_is_logged_as_a_bug(
    delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(rows: Any) -> Any:
        raise ZeroDivisionError

    server = batcher(member("a", Step(bug, delay), Step(echo, delay)), member("b", delay=delay))
    answers = await asyncio.gather(ask(server, [1]), ask(server, [2]), return_exceptions=True)

    assert answers == [[1], [2]]
    assert {record.message for record in caplog.records} == {"member e.a failed: ZeroDivisionError; this is a bug"}
    assert all(record.exc_info for record in caplog.records)
    assert await ask(server, [7]) == [7]


# ---------------------------------------------------------------------------------------------------------------- the books


async def test_what_the_members_cost_and_what_is_idle_is_all_that_the_clock_saw() -> None:
    """A clock that is a second later each time it is read, at a USD a second."""
    ticks = count()
    ledger = Ledger(3600.0, lambda: float(next(ticks)))
    members = [member("a", delay=0.001), member("b", broken(), Step(echo)), member("c")]
    server = Batcher(spec("abc"), members, books(ledger))
    (device,) = ledger.devices
    runs = [run for _ in range(3) for run in (await count_once(server, 1, 2)).runs]
    idle = device.idle_seconds

    assert sum(run.device_seconds for run in runs) + idle == pytest.approx(next(ticks) - 1)
    assert sum(run.cost_usd for run in runs) == pytest.approx(sum(run.device_seconds for run in runs))
    assert all(0 < run.device_seconds <= run.seconds for run in runs), "a run that fails costs too"


async def test_skipped_members_cost_nothing() -> None:
    counted = await count_once(batcher(member("a"), member("b")), 1, policy="member:b")

    assert (counted.runs[0].seconds, counted.runs[0].device_seconds, counted.runs[0].cost_usd) == (0, 0, 0)
    assert [run.device_seconds > 0 for run in counted.runs] == [False, True]


async def test_the_books_count_rows_by_outcome_and_requests_by_model() -> None:
    kept = books()
    server = Batcher(spec("ab"), [member("a"), member("b", broken(), Step(echo))], kept)
    await asyncio.gather(ask(server, [1]), ask(server, [2, 3]))
    await ask(server, [4])
    await ask(server, [5], "member:b")

    text = kept.telemetry.exposition().decode()
    for line in (
        'ensemble_member_rows_total{ensemble="e",member="a",outcome="ok"} 4.0',
        'ensemble_member_rows_total{ensemble="e",member="a",outcome="skipped"} 1.0',
        'ensemble_member_rows_total{ensemble="e",member="b",outcome="ok"} 2.0',
        'ensemble_member_rows_total{ensemble="e",member="b",outcome="failed"} 3.0',
        'ensemble_batch_rows_sum{ensemble="e"} 5.0',
        'ensemble_batch_rows_count{ensemble="e"} 3.0',
        'ensemble_member_seconds_count{ensemble="e",member="b"} 3.0',
    ):
        assert line in text.splitlines()
    whole, a, b = (kept.statistics.of(model) for model in ("e", "e.a", "e.b"))
    assert [(model.runs, model.rows) for model in (whole, a, b)] == [(2, 4), (2, 4), (2, 2)]
    assert (a.within.count, sorted(a.batches)) == (3, [1, 3])


async def test_a_batch_below_the_quorum_is_in_the_books_too() -> None:
    kept = books()
    server = Batcher(spec("a"), [member("a", broken())], kept)
    with pytest.raises(BelowQuorum):
        await ask(server, [1, 2])

    text = kept.telemetry.exposition().decode().splitlines()
    assert 'ensemble_member_rows_total{ensemble="e",member="a",outcome="failed"} 2.0' in text
    assert any(
        line.startswith('ensemble_cost_usd_total{device="cpu",ensemble="e",member="a",policy="full"}') for line in text
    )


# ------------------------------------------------------------------------------------------------------------- real members


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def served(digits: Repository, executor: Executor, broken_members: Sequence[str] = ()) -> Batcher:
    members: list[Member] = [
        member(each.name, broken()) if each.name in broken_members else OnnxMember(each, digits.model(each), executor)
        for each in digits.spec.members
    ]
    return Batcher(digits.spec, members, books())


async def ask_digits(server: Batcher, x: Any, policy: str = "full") -> Any:
    now = time.perf_counter()
    waiting = Entry(x, policy, now, now + 60)
    server.submit(waiting)
    counted, start = await waiting.future
    part = slice(start, start + len(x))
    result = counted.result
    return result.label_index[part], result.probabilities[part], result.votes[part], result.agreement[part]


async def test_the_answers_are_those_of_the_vote_whatever_batch_a_row_was_in(
    digits: Repository, samples: Any, expected: Any, executor: Executor
) -> None:
    sizes = [1, 2, 7, 30, 64, 1, 5] * 6
    starts = np.cumsum([0, *sizes])[:-1]
    server = served(digits, executor)
    parts = [samples[0][start : start + size] for start, size in zip(starts, sizes, strict=True) if start < 600]
    answers = await asyncio.gather(*(ask_digits(server, part) for part in parts))
    labels, probabilities, votes, agreement = (np.concatenate(column) for column in zip(*answers, strict=True))

    assert labels.tolist() == expected.label_index.tolist()
    assert votes.tolist() == expected.votes.tolist()
    assert probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert agreement == pytest.approx(expected.agreement)


async def test_while_the_quorum_holds_the_others_answer_for_a_member_that_fails(
    digits: Repository, samples: Any, scores: Any, executor: Executor
) -> None:
    rows = samples[0][:64]
    server = served(digits, executor, broken_members=["forest", "mlp"])
    labels, probabilities, votes, _ = await ask_digits(server, rows)

    there = np.array([each.name not in ("forest", "mlp") for each in digits.spec.members])
    partial = vote(scores[:64], digits.spec.ballot, np.broadcast_to(there, (64, 5)))
    assert labels.tolist() == partial.label_index.tolist()
    assert votes.tolist() == partial.votes.tolist()
    assert probabilities == pytest.approx(partial.probabilities, abs=1e-5)


async def test_below_the_quorum_of_the_manifest_nobody_answers(
    digits: Repository, samples: Any, executor: Executor
) -> None:
    server = served(digits, executor, broken_members=["forest", "mlp", "bayes"])

    with pytest.raises(BelowQuorum, match="^2 of 5 members voted, the quorum is 3; failed: mlp, forest, bayes$"):
        await ask_digits(server, samples[0][:1])


async def test_a_member_asked_alone_answers_as_itself(
    digits: Repository, samples: Any, expected_of_mlp: Any, executor: Executor
) -> None:
    labels, probabilities, votes, _ = await ask_digits(served(digits, executor), samples[0][:64], "member:mlp")

    assert labels.tolist() == expected_of_mlp.label_index[:64].tolist()
    assert votes.tolist() == expected_of_mlp.votes[:64].tolist()
    assert probabilities == pytest.approx(expected_of_mlp.probabilities[:64], abs=1e-5)
