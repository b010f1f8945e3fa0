"""Drives one ensemble's queue: whenever an executor is free, what waits runs. Does; decides nothing."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from ensembles.members import Member, Rows, Scores
from ensembles.spec import EnsembleSpec
from ensembles.tally import Tally
from serving.batch import Batch, Entry
from serving.batch_queue import Backlog, BatchQueue
from serving.books import Books
from serving.breath import breathe
from serving.counting import Counting, Watcher
from serving.course import courses
from serving.errors import DeadlinePassed, Internal, InvalidRequest
from serving.pressure import Ladder, Pace
from serving.records import Crew, MemberRun, Spent
from serving.stages import Stages

log = logging.getLogger(__name__)

BREATHS, QUIET = 12, 3
"""At the most so many between two batches, and no more once nothing came of so many: to get here, what arrives takes one for its
headers, one for its body, and the client that has just been answered one to ask again."""

LEAST_DELAY_SECONDS = 0.001
"""The event loop's clock has ticks of that length, and may ring a little early."""


class Batcher:
    """At the most `executors` batches run at once, more than one only while their members leave cores to spare.

    The rest waits in the queue, and joins into fuller batches the longer it does.
    Rows that need another stage wait in the backlog, and join those of other batches there.
    """

    def __init__(
        self,
        spec: EnsembleSpec,
        members: Sequence[Member],
        books: Books,
        executors: int = 1,
        watchers: Sequence[Watcher] = (),
        cores: int | None = None,
    ) -> None:
        """`cores`: so many longer runs work at once; as many as there are members, if None."""
        self.queue: BatchQueue[Entry] = BatchQueue(spec.limits.max_batch_size, spec.limits.max_queue_size)
        ladder = spec.policies.ladder
        self.ladder = Ladder(ladder, spec.limits.brownout_seconds) if ladder else None
        self._spec = spec
        self._books = books
        self._ballot = spec.ballot
        self._courses = courses(spec)
        self._stages = Stages(
            spec.name, members, len(spec.labels), books, cores or len(members), spec.limits.max_batch_size
        )
        self._stages.on_halt = self._halt
        self._stages.on_run_end = self._start_if_any_waits
        crew = Crew(
            tuple(member.name for member in members),
            tuple(member.device for member in members),
            tuple(books.ledger.device(member.device).usd_per_second for member in members),
        )
        self._counting = Counting(spec.name, crew, list(self._courses.values()), books, watchers)
        self._backlog: Backlog[Batch] = Backlog(spec.limits.max_batch_size)
        self._batches: set[Batch] = set()
        self._executors = executors
        self._lent = 0
        self._drivers: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    @property
    def pace(self) -> Pace:
        """How long requests wait, and run."""
        return self._counting.pace

    @property
    def members(self) -> Sequence[Member]:
        return self._stages.members

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return sum(not entry.gone for entry in self._entries())

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not len(self.queue) and not self._batches

    @property
    def present(self) -> Sequence[bool]:
        """By member, whether it is in rotation."""
        return self._stages.present

    @property
    def quorate(self) -> bool:
        """Whether enough members are in rotation for an answer of all."""
        return sum(self.present) >= self._spec.vote.quorum

    def on_rotation(self, act: Callable[[], None]) -> None:
        """Call `act` whenever a member leaves the rotation or comes back."""
        self._stages.on_rotation = act

    def try_with(self, rows: Rows) -> None:
        """Members that have left the rotation are tried with the first of these rows."""
        self._stages.trial = rows[:1].copy()

    @property
    def brownout_level(self) -> int:
        """How many steps requests are served below the policy that they ask for, at the most."""
        if self.ladder is None:
            return 0
        return self.ladder.observe(self.queue.rows * self.pace.seconds_per_row, time.perf_counter())

    async def observe(
        self, rows: Rows, members: Sequence[Member], purpose: str
    ) -> list[tuple[MemberRun, Scores | None]]:
        """Run members over rows outside of any request, charged to `purpose`: what became of each, and its votes if it gave any."""
        return await self._stages.observe(rows, members, purpose)

    def close(self) -> None:
        """Begin nothing any more on its own account."""
        self._stages.close()

    def _entries(self) -> list[Entry]:
        return [*self.queue, *(entry for batch in self._batches for entry in batch.entries)]

    # -------------------------------------------------------------------------------------------------------------- driving

    def submit(self, entry: Entry) -> None:
        """Let `entry` wait for its turn, which comes at once where an executor is free."""
        self.queue.push(entry)
        if entry.cutoff < self._alarm_at:
            self._wake_by(entry.cutoff)
        self._start_if_any_waits()

    def _start(self) -> None:
        self._lent += 1
        driver = asyncio.get_running_loop().create_task(self._drive())
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)

    async def _drive(self) -> None:
        """Run batch after batch as long as any waits."""
        lent = _Executor(self._give_back)
        try:
            while not lent.gone and (batch := self._next()) is not None:
                await self._run(batch, lent.give_back)
                await self._let_others_in()
        finally:
            lent.give_back()

    def _give_back(self) -> None:
        self._lent -= 1
        self._start_if_any_waits()

    def _start_if_any_waits(self) -> None:
        if not len(self.queue) and not self._backlog.rows:
            return
        if not self._lent or (self._lent < self._executors and self._stages.spare):
            self._start()

    def _next(self) -> Batch | None:
        """What runs now: rows between two stages, joined, or new requests; None when nothing waits."""
        while len(self.queue) or self._backlog.rows:
            halted = self._backlog.take(self.queue.rows)
            batch = self._rejoined(halted) if halted else self._begun()
            if batch is not None:
                return batch
        return None

    def _rejoined(self, halted: Sequence[Batch]) -> Batch | None:
        """One batch of several, without those who have gone."""
        self._batches.difference_update(halted)
        for batch in halted:
            batch.without_gone()
        waiting = [batch for batch in halted if batch.waits]
        if not waiting:
            return None
        joined = waiting[0] if len(waiting) == 1 else Batch.join(waiting)
        self._batches.add(joined)
        return joined

    def _begun(self) -> Batch | None:
        """The oldest request in the queue and those of its policy, those who have gone or have no numbers left out."""
        now, before = time.perf_counter(), self.queue.rows
        taken = self.queue.take(now)
        self.pace.took(now, before - self.queue.rows, self.queue.rows)
        for entry in taken.expired:
            entry.refuse(DeadlinePassed("the deadline passed while the request waited in the queue"))
        entries = taken.batch
        rows = _joined(entries)
        if not _finite(rows):
            entries = self._finite_ones(entries)
            rows = _joined(entries)
        if not entries:
            return None
        for entry in entries:
            entry.started = now
        course = self._courses[entries[0].policy]
        tally = Tally(self._ballot, len(rows), len(self._spec.labels), course.members, course.rule)
        batch = Batch(course, entries, rows, tally, Spent.nothing(len(rows), len(self.members)))
        for journey in batch.journeys:
            journey.started = now
        self._books.telemetry.begun(self._spec.name, len(rows))
        self._batches.add(batch)
        return batch

    def _finite_ones(self, batch: Sequence[Entry]) -> list[Entry]:
        """Refuse those whose numbers are none; the others."""
        fault = InvalidRequest(f"input {self._spec.input.name!r}: found NaN or infinity, expected finite numbers")
        for entry in batch:
            if not _finite(entry.rows):
                entry.refuse(fault)
        return [entry for entry in batch if not entry.gone]

    async def _run(self, batch: Batch, free: Callable[[], None]) -> None:
        try:
            await self._stages.run(batch, self._counting, self.queue.rows + self._backlog.rows, free)
        except Exception:
            log.exception("a batch of %s broke; this is a bug", self._spec.name)
            self._counting.refuse(batch, Internal("the batch broke; this is a bug"))
        if batch.waits:
            self._halt(batch)
        else:
            self._batches.discard(batch)

    def _halt(self, batch: Batch) -> None:
        """Let rows wait for their next stage."""
        self._batches.add(batch)
        self._backlog.put(batch.key, batch, batch.tally.open_rows)
        self._start_if_any_waits()

    async def _let_others_in(self) -> None:
        """Let answers go out and what has arrived meanwhile come in, so that the next batch is as full as it can be.

        That costs microseconds where nobody waits, and where many do, fuller batches make each request some tenth cheaper.
        """
        quiet = 0
        for _ in range(BREATHS):
            if self.queue.full:
                await asyncio.sleep(0)
                return
            waiting = len(self.queue)
            await breathe()
            quiet = quiet + 1 if len(self.queue) == waiting else 0
            if quiet == QUIET:
                return

    # ------------------------------------------------------------------------------------------------------------ deadlines

    def _wake_by(self, instant: float) -> None:
        """One timer serves all: set to the cutoff or deadline that comes first."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(instant - time.perf_counter(), LEAST_DELAY_SECONDS)
        self._alarm, self._alarm_at = asyncio.get_running_loop().call_later(delay, self._expire), instant

    def _expire(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = time.perf_counter()
        for entry in self.queue:
            if entry.deadline <= now:
                entry.refuse(DeadlinePassed("the deadline passed while the request waited in the queue"))
        for batch in list(self._batches):
            try:
                self._counting.cut(batch, now, self._stages.absent)
            except Exception:
                log.exception("a batch of %s broke; this is a bug", self._spec.name)
                self._counting.refuse(batch, Internal("the batch broke; this is a bug"))
            self._stages.wake(batch)
        instants = [
            entry.cutoff if entry.cutoff > now else entry.deadline for entry in self._entries() if not entry.gone
        ]
        if instants:
            self._wake_by(min(instants))


class _Executor:
    """Lent to a driver, to be given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self.gone = False

    def give_back(self) -> None:
        if not self.gone:
            self.gone = True
            self._give_back()


def _joined(batch: Sequence[Entry]) -> Rows:
    """The rows of all, which lie in memory as their bytes came: joined as such at a third of the price."""
    if not batch:
        return np.zeros(0)
    first = batch[0].rows
    if len(batch) == 1:
        return first
    joined = b"".join([entry.rows.data for entry in batch])
    return np.frombuffer(joined, first.dtype).reshape(-1, *first.shape[1:])


def _finite(rows: Rows) -> bool:
    """Whether no number is NaN or infinite. Looked at batch by batch: for all requests in it, that costs what it costs for one.

    A finite sum of squares proves it at a tenth of the price; only where that overflows does one have to look at each.
    """
    if rows.dtype.kind != "f":
        return True
    flat = rows.ravel()
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())
