"""Who of a batch can be answered, and with what. Runs no member."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ensembles.members import Rows
from serving.batch import Batch
from serving.books import Books
from serving.course import Course
from serving.errors import BelowQuorum, DeadlinePassed, Fault
from serving.pressure import Pace
from serving.records import CODES, Counted, Crew, Outcome
from serving.staging import Reach

Watcher = Callable[[Rows, Counted], None]
"""Is told of rows that were counted. Takes microseconds and never raises."""


class Counting:
    """Lets the rows of batches leave as their votes come in, and answers their requests."""

    def __init__(
        self, ensemble: str, crew: Crew, courses: Sequence[Course], books: Books, watchers: Sequence[Watcher]
    ) -> None:
        self.pace = Pace()
        self.reach = {course.policy: Reach(len(course.stages)) for course in courses}
        self._ensemble = ensemble
        self._crew = crew
        self._books = books
        self._watchers = watchers

    def settle(self, batch: Batch) -> dict[int, str]:
        """Enter the votes that are there, let rows leave stage by stage, and answer requests that need no more.

        Why members gave no votes after all, by their index.
        """
        faults: dict[int, str] = {}
        if not batch.waits:
            return faults
        while batch.stage < batch.begun:
            faults.update(batch.enter_stage())
            if batch.course.leaves_midway:
                faults.update(batch.enter_ahead())
            waits = batch.stage_waits()
            if batch.course.leaves_midway if waits else not batch.last:
                self._leave(batch, whole=not waits)
            if waits:
                break
            batch.stage += 1
            if not batch.tally.open_rows:
                break
        self._release(batch)
        batch.counting_seconds = 0.0
        return faults

    def _leave(self, batch: Batch, whole: bool) -> None:
        """`whole`: all members of the stage that is on have voted."""
        policy, rows = batch.course.policy, batch.tally.open_rows
        began = time.perf_counter()
        left = batch.leave()
        batch.counting_seconds += time.perf_counter() - began
        self._books.telemetry.early_exits(self._ensemble, policy, batch.stage, left)
        if whole:
            self.reach[policy].observe(batch.stage, rows, left)

    def _release(self, batch: Batch) -> None:
        """Answer those who need no more votes; the rest goes on."""
        going = batch.finished()
        if len(going) == len(batch.entries):
            self._answer(batch)
            batch.entries = []
        elif going:
            part = batch.take(going)
            batch.without(going)
            self._answer(part)

    def _answer(self, batch: Batch) -> None:
        """Count the votes of all requests of a batch and tell their callers, or that there are too few."""
        self._books.telemetry.outcomes(self._ensemble, self._crew, batch.spent.counts())
        if not batch.whole:
            batch = batch.take(self._with_quorum(batch))
            if not batch.waits:
                return
        counted = self._counted(batch)
        start = 0
        for entry in batch.entries:
            entry.answer(counted, start)
            start += len(entry.rows)
        for watcher in self._watchers:
            watcher(batch.rows, counted)

    def _with_quorum(self, batch: Batch) -> list[int]:
        """Refuse requests of which a row has no quorum; the numbers of the others."""
        holds = np.broadcast_to(batch.quorate(), len(batch.rows))
        starts, going = batch.starts, []
        for number, entry in enumerate(batch.entries):
            if holds[starts[number] : starts[number + 1]].all():
                going.append(number)
            else:
                entry.refuse(BelowQuorum(self._standing(batch.take([number]))))
        return going

    def _counted(self, batch: Batch) -> Counted:
        voted = time.perf_counter() - batch.counting_seconds
        result, exact = batch.tally.answer()
        started = sum([entry.started for entry in batch.entries]) / len(batch.entries)
        counted = Counted(
            ensemble=self._ensemble,
            policy=batch.course.policy,
            rows=len(batch.rows),
            result=result,
            exact=exact,
            spent=batch.spent,
            crew=self._crew,
            scores=batch.tally.scores,
            compute_seconds=voted - started,
            vote_seconds=time.perf_counter() - voted,
            faults=batch.faults,
            voted=voted,
        )
        self.pace.ran(counted.compute_seconds)
        self._books.telemetry.batch(counted)
        self._books.statistics.batch(counted)
        return counted

    def cut(self, batch: Batch, now: float, absent: Mapping[int, str]) -> None:
        """Answer the requests whose time is up with the votes that are there, where those are a quorum; else when all time is.

        `absent`: why members are out of rotation, by their index.
        """
        going = []
        for number, entry in enumerate(batch.entries):
            if entry.gone or entry.cutoff > now:
                continue
            part = batch.take([number])
            part.enter_rest()
            part.late(absent)
            if part.quorate().all():
                self._answer(part)
            elif entry.deadline <= now:
                self._books.telemetry.outcomes(self._ensemble, self._crew, part.spent.counts())
                entry.refuse(DeadlinePassed(f"the deadline passed: {self._standing(part)}"))
            else:
                continue
            going.append(number)
        batch.without(going)

    def refuse(self, batch: Batch, fault: Fault) -> None:
        """Tell everybody in a batch why there is no answer."""
        for entry in batch.entries:
            entry.refuse(fault)
        batch.entries = []

    def _standing(self, batch: Batch) -> str:
        """Who has voted on the rows of one request, and who is missing."""
        counts = batch.spent.counts()
        missing = ""
        for outcome in (Outcome.FAILED, Outcome.LATE):
            code = CODES[outcome]
            names = [name for name, counted in zip(self._crew.names, counts, strict=True) if counted[code]]
            missing += f"; {outcome.value}: {', '.join(names)}" if names else ""
        course = batch.course
        voted = course.size - int(batch.spent.missing().max())
        return f"{voted} of {course.size} members voted, the quorum is {course.quorum}{missing}"
