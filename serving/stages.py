"""Runs the members of a batch's stages: on the event loop where they are brief, side by side where they are not."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ensembles.members import SHORT_SECONDS, Member, Rows, Scores
from ensembles.tally import no_votes
from ensembles.votes import Ints
from serving.batch import Batch
from serving.books import Books
from serving.breath import give_way
from serving.counting import Counting
from serving.errors import Internal
from serving.records import MemberRun, Outcome
from serving.rotation import FAULTS
from serving.seats import LEAST_OVERDUE_SECONDS, OVERDUE, Pieces, Run, Seat
from serving.staging import Remaining, at_once, makespan

log = logging.getLogger(__name__)

UNHURRIED_SECONDS = 0.005
"""How long a run may hold the event loop where a thread could run nothing beside it, and would buy only that the loop stays responsive."""

CROWDED_SECONDS = 0.002
"""The same on one core, for a run of which this may be a piece, where many wait: most of what arrives will be refused, and is not to
wait for a member's run before that. A thread would be no help, since the kernel lets it work for longer before it looks at who else
wants the core."""

HERE = math.inf
"""On the event loop however long it turns out to take, once that was decided: elsewhere, nobody would watch over it."""

OUT = f"out of rotation after {FAULTS} faults"

TRIAL_SECONDS = 10.0
"""What a member that has left the rotation may take to vote on one row."""

MOST_AT_ONCE = 16
"""Runs of one member on a device of its own kind: more would only wait there."""

Free = Callable[[], None]


@dataclass(eq=False, slots=True)
class Turn:
    """A batch whose members run side by side over `rows`.

    `done` is set when its stages have run, or nobody waits for them any more.
    """

    batch: Batch
    rows: Rows
    runs: dict[int, tuple[Run, "asyncio.Task[None]"]]
    done: "asyncio.Future[None]"

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Stages:
    """The members of one ensemble, and the batches that they are at."""

    def __init__(
        self, ensemble: str, members: Sequence[Member], classes: int, books: Books, cores: int, crowd: int
    ) -> None:
        """`cores`: so many longer runs work at once. `crowd`: where more rows wait, none but short runs hold the event loop."""
        self.members = members
        self.on_rotation: Callable[[], None] = lambda: None
        self.trial: Rows | None = None
        """A row that every member should be able to vote on; one that it failed on, if None."""
        self.on_halt: Callable[[Batch], None] = lambda batch: None
        self.on_run_end: Callable[[], None] = lambda: None
        """Of a run that has left a core."""
        self._ensemble = ensemble
        self._classes = classes
        self._books = books
        self._cores = cores
        self._crowd = crowd
        self._slots = asyncio.Semaphore(cores)
        self._seats = [self._seat_of(member) for member in members]
        self._guests: list[Seat] = []
        self._turns: dict[Batch, Turn] = {}
        self._retries: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def spare(self) -> bool:
        """Whether batches run side by side with this one's event loop, and leave it a core."""
        return not self._slots.locked() and any(not turn.done.done() for turn in self._turns.values())

    @property
    def present(self) -> list[bool]:
        """By member, whether it is asked."""
        return [seat.rotation.present for seat in self._seats]

    @property
    def absent(self) -> dict[int, str]:
        """Why members are not asked, by their index."""
        return {member: OUT for member, seat in enumerate(self._seats) if not seat.rotation.present}

    async def run(self, batch: Batch, counting: Counting, waiting: int, free: Free) -> None:
        """Run what is next for `batch` and have its requests answered as far as they can be.

        `waiting`: rows in the queue behind it. `free` is called when members seem stuck, so that others may go on meanwhile.
        """
        stages = self._chosen(batch, counting, waiting)
        asked = [member for stage in stages for member in stage]
        absent = self.absent
        present = [member for member in asked if member not in absent]
        rows = batch.open_rows
        batch.begin(len(stages), present, {member: absent[member] for member in asked if member in absent})
        at_most = self._at_most(present, waiting)
        rows_at_a_time = [self._piece(member, len(rows), at_most) for member in present]
        if all(rows_at_a_time):
            await self._briefly(batch, counting, present, rows, rows_at_a_time)
        else:
            await self._side_by_side(batch, counting, present, rows, free)

    def _at_most(self, members: Sequence[int], waiting: int) -> float:
        """How long a run may hold the event loop, in seconds."""
        side_by_side = self._cores > 1 and len(members) > 1
        return SHORT_SECONDS if side_by_side or waiting > self._crowd else UNHURRIED_SECONDS

    def _piece(self, member: int, rows: int, at_most: float) -> int:
        """How many rows at a time it runs on the event loop; 0 if elsewhere, which is of use only where that leaves this core free."""
        if self._cores == 1 and self.members[member].device == "cpu":
            return self._seats[member].piece(rows, max(at_most, CROWDED_SECONDS))
        return rows if self.members[member].brief(rows, at_most) else 0

    def _chosen(self, batch: Batch, counting: Counting, waiting: int) -> Sequence[Sequence[int]]:
        """The stages that run now: the next one, or all that remain where that is cheaper."""
        remaining, rows = batch.course.stages[batch.stage :], batch.tally.open_rows
        if len(remaining) == 1 or self._cores == 1:
            return remaining[:1]
        members = [self.members[member] for stage in remaining for member in stage]
        if all(member.brief(rows) for member in members) or any(member.predict(rows) is None for member in members):
            return remaining[:1]
        reach = counting.reach[batch.course.policy].after(batch.stage)
        costs = [Remaining(self._seconds(stage, rows), share) for stage, share in zip(remaining, reach, strict=True)]
        return remaining if at_once(costs, rows, waiting, self._cores) else remaining[:1]

    def _seconds(self, members: Sequence[int], rows: int) -> list[float]:
        return [self._seats[member].predict(rows) for member in members]

    async def _briefly(
        self,
        batch: Batch,
        counting: Counting,
        members: Sequence[int],
        rows: Rows,
        rows_at_a_time: Sequence[int],
    ) -> None:
        ids = batch.open_ids
        for member, piece in zip(members, rows_at_a_time, strict=True):
            seat = self._seats[member]
            run = seat.run(rows)
            if batch.journeys:
                batch.tell_of(run.record)
            pieces = Pieces(piece, lambda: not _abandoned(batch)) if piece < len(rows) else None
            await seat.work(run, rows, batch.course.policy, HERE, pieces)
            if run.given_up:
                break
            self._put(batch, member, ids, run)
            if run.record.seconds > SHORT_SECONDS and member != members[-1]:
                await give_way()
                if _abandoned(batch):
                    break
        self._settle(batch, counting)

    async def _side_by_side(
        self, batch: Batch, counting: Counting, members: Sequence[int], rows: Rows, free: Free
    ) -> None:
        loop, ids = asyncio.get_running_loop(), batch.open_ids
        turn = self._turns[batch] = Turn(batch, rows, {}, loop.create_future())
        for member in members:
            run = self._seats[member].run(rows)
            if batch.journeys:
                batch.tell_of(run.record)
            task = loop.create_task(self._seats[member].work_in_turn(run, rows, batch.course.policy))
            turn.runs[member] = run, task
            task.add_done_callback(partial(self._came_in, turn, counting, member, ids))
        for entry in batch.entries:
            entry.future.add_done_callback(lambda _: self._left(turn))
        try:
            patience = OVERDUE * makespan(self._seconds(members, len(rows)), self._cores) + LEAST_OVERDUE_SECONDS
            await asyncio.wait([turn.done], timeout=patience)
            if not turn.done.done():
                free()
                await self._as_long_as_later_stages_allow(turn, counting)
                await turn.done
        finally:
            self._give_up(turn)

    async def _as_long_as_later_stages_allow(self, turn: Turn, counting: Counting) -> None:
        """Wait for members that seem stuck, but leave each request the time for the stages behind; then it goes on without them."""
        batch, later = turn.batch, turn.batch.course.stages[turn.batch.begun :]
        if not later:
            return
        needed = OVERDUE * sum(makespan(self._seconds(stage, len(batch.rows)), self._cores) for stage in later)
        needed += LEAST_OVERDUE_SECONDS
        while not turn.done.done():
            await asyncio.wait([turn.done], timeout=max(batch.cutoff - needed - time.perf_counter(), 0))
            if not turn.done.done():
                self._go_on(batch, counting, time.perf_counter() + needed)

    def _go_on(self, batch: Batch, counting: Counting, until: float) -> None:
        """Let the requests whose cutoff comes before `until` wait no more for this stage; the others stay."""
        hasty = [number for number, entry in enumerate(batch.entries) if entry.cutoff <= until]
        part = batch if len(hasty) == len(batch.entries) else batch.take(hasty)
        part.pass_over()
        if part is not batch:
            batch.without(hasty)
        self._settle(part, counting)
        if part is batch:
            self.wake(batch)
        elif part.waits:
            self.on_halt(part)

    def _came_in(self, turn: Turn, counting: Counting, member: int, ids: Ints, task: "asyncio.Task[None]") -> None:
        """A member's run has ended."""
        run, _ = turn.runs.pop(member)
        if not task.cancelled() and not turn.done.done():
            try:
                task.result()
                self._put(turn.batch, member, ids, run)
                self._settle(turn.batch, counting)
            except Exception:
                log.exception("a run of %s broke; this is a bug", self._ensemble)
                counting.refuse(turn.batch, Internal("the batch broke; this is a bug"))
            self.wake(turn.batch)
        self.on_run_end()

    def _put(self, batch: Batch, member: int, ids: Ints, run: Run) -> None:
        batch.put(member, ids, run.record, run.scores)
        if run.record.outcome is Outcome.OK:
            self._books.statistics.member_ran(self._ensemble, run.record, batch.course.policy, len(batch.entries))
        else:
            self._unheard(member, batch.rows)

    def _settle(self, batch: Batch, counting: Counting) -> None:
        """Count what is there. A member is heard once its votes turn out to be some."""
        rows, came = batch.rows, batch.unentered
        faults = counting.settle(batch)
        left = batch.unentered
        for member, (ran, scores) in came.items():
            if member in left and batch.waits:
                continue
            fault = no_votes(scores, (ran, self._classes)) if member in left else faults.get(member)
            if fault:
                log.warning("member %s.%s failed: %s", self._ensemble, self.members[member].name, fault)
                self._unheard(member, rows)
            elif self._seats[member].heard():
                self.on_rotation()
        now = time.perf_counter()
        if batch.waits and batch.cutoff <= now:
            counting.cut(batch, now, self.absent)

    def wake(self, batch: Batch) -> None:
        """End the turn of a batch whose stages have run, or for which nobody waits."""
        turn = self._turns.get(batch)
        if turn is not None and (not batch.waits or batch.stage >= batch.begun):
            turn.end()

    def _left(self, turn: Turn) -> None:
        """A caller has left, or was answered."""
        if _abandoned(turn.batch):
            turn.end()

    def _give_up(self, turn: Turn) -> None:
        """Stop the runs that nobody waits for."""
        del self._turns[turn.batch]
        now = time.perf_counter()
        for member, (run, task) in turn.runs.items():
            if run.overdue_at <= now:
                run.given_up = "late"
            if self._seats[member].hung(now):
                self._unheard(member, turn.rows)
            task.cancel()

    def _unheard(self, member: int, rows: Rows) -> None:
        """One fault more. Those of runs that were under way when it left are no trials, and lengthen no pause."""
        if self._seats[member].rotation.present and not self._closed and self._seats[member].unheard():
            self.on_rotation()
            row = rows[:1].copy() if self.trial is None else self.trial
            task = asyncio.get_running_loop().create_task(self._retry(self._seats[member], row))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _retry(self, seat: Seat, row: Rows) -> None:
        """Try a member that has left the rotation, after pauses that grow, until it votes."""
        while (at := seat.rotation.tried_at) is not None:
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            try:
                async with asyncio.timeout(TRIAL_SECONDS):
                    [(_, scores)] = await self.observe(row, [seat.member], "probe")
            except TimeoutError:
                scores = None
            except Exception:
                log.exception("trying %s.%s broke; this is a bug", self._ensemble, seat.member.name)
                scores = None
            if scores is None:
                seat.unheard()
            elif seat.heard():
                self.on_rotation()

    async def observe(
        self, rows: Rows, members: Sequence[Member], purpose: str
    ) -> list[tuple[MemberRun, Scores | None]]:
        """Run members over rows outside of any request, charged to `purpose`: what became of each, and its votes if it gave any."""
        return [await self._observed(self._seat(member), rows, purpose) for member in members]

    async def _observed(self, seat: Seat, rows: Rows, purpose: str) -> tuple[MemberRun, Scores | None]:
        await asyncio.sleep(0)
        run = seat.run(rows)
        await (seat.work if seat.member.brief(len(rows)) else seat.work_in_turn)(run, rows, purpose)
        if run.scores is not None and (fault := no_votes(run.scores, (len(rows), self._classes))):
            seat.failed(run, fault)
            return run.record, None
        return run.record, run.scores

    def _seat(self, member: Member) -> Seat:
        """Of a member, or of a guest that does not vote."""
        for seat in (*self._seats, *self._guests):
            if seat.member is member:
                return seat
        guest = self._seat_of(member)
        self._guests.append(guest)
        return guest

    def _seat_of(self, member: Member) -> Seat:
        """A run on another device than the CPU hardly needs a core, so that only those on the CPU wait for one."""
        slots = self._slots if member.device == "cpu" else asyncio.Semaphore(MOST_AT_ONCE)
        return Seat(self._ensemble, member, self._books, slots)

    def close(self) -> None:
        """Try nobody again."""
        self._closed = True
        for task in self._retries:
            task.cancel()


def _abandoned(batch: Batch) -> bool:
    """Whether all its callers have left, or were answered; from then on it waits for nobody."""
    if all(entry.gone for entry in batch.entries):
        batch.entries = []
    return not batch.entries
