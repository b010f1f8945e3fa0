"""Drives one ensemble's queue and members: whenever an executor is free, what waits runs. Does; decides nothing."""

import asyncio
import ctypes
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Member, MemberError, Rows, Scores
from ensembles.spec import EnsembleSpec
from ensembles.tally import Tally
from ensembles.votes import Mask
from serving.batch_queue import BatchQueue
from serving.course import Course, courses
from serving.errors import BelowQuorum, DeadlinePassed, Fault, Internal, InvalidRequest
from serving.ledger import Account, Ledger
from serving.records import Counted, MemberRun, Outcome
from serving.statistics import Statistics
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)

yield_core = ctypes.CDLL(None).sched_yield  # unlike os.sched_yield it lets go of the interpreter meanwhile
YIELDS, QUIET = 12, 3
"""At the most so many between two batches, and no more once nothing came of so many: to get here, what arrives takes one for its
headers, one for its body, and the client that has just been answered one to ask again."""


LEAST_DELAY_SECONDS = 0.001
"""The event loop's clock has ticks of that length, and may ring a little early."""


class Entry:
    """One request in the queue, and the promise of its place in a counted batch."""

    __slots__ = ("arrived", "deadline", "future", "policy", "rows", "started")

    def __init__(self, rows: NDArray[Any], policy: str, arrived: float, deadline: float) -> None:
        self.rows = rows
        self.policy = policy
        self.arrived = arrived
        self.deadline = deadline
        self.started = arrived
        self.future: asyncio.Future[tuple[Counted, int]] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        return self.future.done()

    def answer(self, counted: Counted, start: int) -> None:
        if not self.future.done():
            self.future.set_result((counted, start))

    def refuse(self, fault: Fault) -> None:
        if not self.future.done():
            self.future.set_exception(fault)


@dataclass(frozen=True, slots=True)
class Books:
    """Where a batcher writes down what it did."""

    ledger: Ledger
    telemetry: Telemetry
    statistics: Statistics


class Batcher:
    """`executors` batches run at once; the rest waits in the queue, and joins into fuller batches the longer it does."""

    def __init__(self, spec: EnsembleSpec, members: Sequence[Member], books: Books, executors: int = 1) -> None:
        self.queue: BatchQueue[Entry] = BatchQueue(spec.limits.max_batch_size, spec.limits.max_queue_size)
        self._spec = spec
        self._members = members
        self._books = books
        self._ballot = spec.ballot
        self._devices = [books.ledger.device(member.device) for member in members]
        self._courses = courses(spec)
        self._accounts = {
            policy: [Account(spec.name, policy, member.name) for member in members] for policy in self._courses
        }
        self._skipped = [MemberRun(member.name, Outcome.SKIPPED, member.device) for member in members]
        self._free = executors
        self._drivers: set[asyncio.Task[None]] = set()
        self._running: list[Entry] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return sum(not entry.gone for entry in (*self.queue, *self._running))

    def submit(self, entry: Entry) -> None:
        """Let `entry` wait for its turn, which comes at once where an executor is free."""
        self.queue.push(entry)
        if entry.deadline < self._alarm_at:
            self._wake_by(entry.deadline)
        if self._free:
            self._free -= 1
            driver = asyncio.get_running_loop().create_task(self._drive())
            self._drivers.add(driver)
            driver.add_done_callback(self._drivers.discard)

    def _wake_by(self, deadline: float) -> None:
        """One timer serves all: set to the deadline that comes first."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(deadline - time.perf_counter(), LEAST_DELAY_SECONDS)
        self._alarm, self._alarm_at = asyncio.get_running_loop().call_later(delay, self._expire), deadline

    def _expire(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = time.perf_counter()
        open_entries = [entry for entry in (*self.queue, *self._running) if not entry.gone]
        for entry in open_entries:
            if entry.deadline <= now:
                entry.refuse(DeadlinePassed("the deadline passed before the members had answered"))
        following = min((entry.deadline for entry in open_entries if not entry.gone), default=None)
        if following is not None:
            self._wake_by(following)

    async def _drive(self) -> None:
        try:
            while len(self.queue):
                taken = self.queue.take(time.perf_counter())
                for entry in taken.expired:
                    entry.refuse(DeadlinePassed("the deadline passed while the request waited in the queue"))
                if taken.batch:
                    await self._run(taken.batch)
                await self._let_others_in()
        finally:
            self._free += 1

    async def _let_others_in(self) -> None:
        """Let answers go out and what has arrived meanwhile come in, so that the next batch is as full as it can be.

        Requests reach this thread through others, which the kernel keeps waiting for as long as this one computes. To yield
        costs microseconds where nobody waits, and where many do, fuller batches make each request some tenth cheaper.
        """
        quiet = 0
        for _ in range(YIELDS):
            if self.queue.full:
                await asyncio.sleep(0)
                return
            waiting = len(self.queue)
            yield_core()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.queue) == waiting else 0
            if quiet == QUIET:
                return

    async def _run(self, batch: list[Entry]) -> None:
        self._running += batch
        try:
            rows = _joined(batch)
            if not _finite(rows):
                batch = self._finite_ones(batch)
                rows = _joined(batch)
            counted = await self.count(rows, batch[0].policy, batch)
        except Fault as fault:
            for entry in batch:
                entry.refuse(fault)
        except Exception:
            log.exception("a batch of %s broke; this is a bug", self._spec.name)
            for entry in batch:
                entry.refuse(Internal("the batch broke; this is a bug"))
        else:
            start = 0
            for entry in batch:
                stop = start + len(entry.rows)
                if counted.below_quorum is not None and counted.below_quorum[start:stop].any():
                    entry.refuse(_too_few(self._courses[counted.policy], counted.runs))
                else:
                    entry.answer(counted, start)
                start = stop
        finally:
            self._running = [entry for entry in self._running if not entry.gone]

    def _finite_ones(self, batch: Sequence[Entry]) -> list[Entry]:
        """Refuse those whose numbers are none; the others. Raises InvalidRequest when there is no other."""
        fault = InvalidRequest(f"input {self._spec.input.name!r}: found NaN or infinity, expected finite numbers")
        others = []
        for entry in batch:
            if _finite(entry.rows):
                others.append(entry)
            else:
                entry.refuse(fault)
        if not others:
            raise fault
        return others

    async def count(self, rows: Rows, policy: str, batch: Sequence[Entry] = ()) -> Counted:
        """Run the members that `policy` asks for over `rows` and count their votes. Raises BelowQuorum."""
        started = time.perf_counter()
        for entry in batch:
            entry.started = started
        course = self._courses[policy]
        tally = Tally(self._ballot, len(rows), len(self._spec.labels), course.members, course.rule)
        runs, ran = await self._fill(tally, course, rows)
        computed = time.perf_counter()
        self._books.telemetry.runs(self._spec.name, policy, len(rows), runs)
        below_quorum = _below_quorum(course, runs, ran)
        if below_quorum is not None and below_quorum.all():
            raise _too_few(course, runs)
        result, exact = tally.answer()
        counted = Counted(
            ensemble=self._spec.name,
            policy=policy,
            rows=len(rows),
            result=result,
            runs=runs,
            exact=exact,
            ran=ran,
            compute_seconds=computed - started,
            vote_seconds=time.perf_counter() - computed,
            below_quorum=below_quorum,
        )
        self._books.telemetry.batch(counted)
        self._books.statistics.batch(counted, len(batch))
        return counted

    async def _fill(self, tally: Tally, course: Course, rows: Rows) -> tuple[list[MemberRun], Mask | None]:
        """Run stage after stage on the rows that need it: what became of every member, and which rows each one ran."""
        runs, ran = list(self._skipped), None
        here = np.arange(len(rows))
        for number, stage in enumerate(course.stages):
            if ran is not None:
                ran[here[:, None], stage] = True
            await self._stage(tally, stage, course.policy, rows, runs)
            if number + 1 == len(course.stages):
                break
            leaves = tally.leave(course.score, course.threshold)
            left = int(np.count_nonzero(leaves))
            self._books.telemetry.early_exits(self._spec.name, course.policy, number, left)
            if left == len(rows):
                break
            if left:
                if ran is None:
                    ran = np.zeros((len(here), len(runs)), np.bool_)
                    ran[:, [index for done in course.stages[: number + 1] for index in done]] = True
                here, rows = here[~leaves], rows[~leaves]
        return runs, ran

    async def _stage(self, tally: Tally, stage: Sequence[int], policy: str, rows: Rows, runs: list[MemberRun]) -> None:
        """Run the members of one stage and enter what comes back; `runs` takes what became of them."""
        columns: dict[int, Scores] = {}
        if all(self._members[index].brief(len(rows)) for index in stage):
            for index in stage:
                runs[index] = await self._column(columns, index, rows, policy)
        else:
            done = await asyncio.gather(*(self._column(columns, index, rows, policy) for index in stage))
            for index, run in zip(stage, done, strict=True):
                runs[index] = run
        for index, fault in tally.enter_all(columns).items():
            self._failed(runs[index], fault)

    async def _column(self, columns: dict[int, Scores], index: int, rows: Rows, policy: str) -> MemberRun:
        """Run one member and put what it says into `columns`."""
        member = self._members[index]
        occupation = self._devices[index].occupation(self._accounts[policy][index])
        fault: Exception | None = None
        try:
            columns[index] = await member.run(rows, occupation)
        except Exception as error:
            fault = error
        run = MemberRun(
            member.name,
            Outcome.OK,
            member.device,
            len(rows),
            occupation.seconds,
            occupation.device_seconds,
            self._books.ledger.cost_usd(occupation.device_seconds),
            occupation.charged,
        )
        if isinstance(fault, MemberError):
            self._failed(run, str(fault))
        elif fault is not None:
            self._failed(run, f"{type(fault).__name__}; this is a bug", fault)
        return run

    def _failed(self, run: MemberRun, fault: str, bug: Exception | None = None) -> None:
        log.warning("member %s.%s failed: %s", self._spec.name, run.member, fault, exc_info=bug)
        run.outcome, run.fault = Outcome.FAILED, fault


def _below_quorum(course: Course, runs: Sequence[MemberRun], ran: Mask | None) -> Mask | None:
    """Which rows lack a quorum because members failed on them, [n], or [1] where all rows fared alike; None if no row does.

    A row that left before a member failed is none of its business: an answer does not depend on who else is in the batch.
    """
    failed = [index for index, run in enumerate(runs) if run.outcome is Outcome.FAILED]
    if not failed or course.size - len(failed) >= course.quorum:
        return None
    if ran is None:
        return np.ones(1, np.bool_)
    below: Mask = course.size - np.count_nonzero(ran[:, failed], axis=1) < course.quorum
    return below


def _too_few(course: Course, runs: Sequence[MemberRun]) -> BelowQuorum:
    failed = [run.member for run in runs if run.outcome is Outcome.FAILED]
    return BelowQuorum(
        f"{course.size - len(failed)} members voted, the quorum is {course.quorum}; failed: {', '.join(failed)}"
    )


def _joined(batch: Sequence[Entry]) -> Rows:
    return batch[0].rows if len(batch) == 1 else np.concatenate([entry.rows for entry in batch])


def _finite(rows: Rows) -> bool:
    """Whether no number is NaN or infinite. Looked at batch by batch: for all requests in it, that costs what it costs for one.

    A finite sum of squares proves it at a tenth of the price; only where that overflows does one have to look at each.
    """
    if rows.dtype.kind != "f":
        return True
    flat = rows.ravel()
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())
