"""Requests that are under way together: their rows, the votes so far, and who can be answered. Runs nothing."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Rows, Scores
from ensembles.tally import Tally, no_votes
from ensembles.votes import Ints, Mask
from serving.course import Course
from serving.errors import Fault
from serving.journey import Journey
from serving.records import CODES, FAILED, LATE, OK, SKIPPED, Counted, MemberRun, Outcome, Spent

RESERVE_SHARE, RESERVE_SECONDS = 0.1, 0.02
"""Before its deadline, a request is answered with the votes that are there: so much sooner, so that the answer still arrives."""


class Entry:
    """One request that waits, and the promise of its place among rows that are counted.

    `cutoff`: from then on, the votes that are there will do, if they are a quorum; `deadline`: from then on, nothing will.
    `level`: by how many steps `policy` stands below `asked`, the one that was asked for. `journey`: of a request that is followed.
    """

    __slots__ = ("arrived", "asked", "cutoff", "deadline", "future", "journey", "level", "policy", "rows", "started")

    def __init__(
        self,
        rows: NDArray[Any],
        policy: str,
        arrived: float,
        deadline: float,
        asked: str = "",
        level: int = 0,
        journey: Journey | None = None,
    ) -> None:
        self.rows = rows
        self.policy = policy
        self.asked = asked or policy
        self.level = level
        self.journey = journey
        self.arrived = arrived
        self.deadline = deadline
        reserve = RESERVE_SHARE * (deadline - arrived)
        self.cutoff = deadline - (min(RESERVE_SECONDS, reserve))
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


class Batch:
    """Rows that run a policy's stages together. `stage`: the one that is on, or the next; `begun`: so many have been begun.
    `whole`: no member that should have voted has failed or is late. `journeys`: of those requests that are followed.
    `counting_seconds`: what the votes of rows that have left just now took to count.

    A request's rows stay together until it is answered, also those that need no more votes. Each row has an identity by which
    votes that come in find it, whoever has left meanwhile.
    """

    def __init__(self, course: Course, entries: list[Entry], rows: Rows, tally: Tally, spent: Spent) -> None:
        self.course = course
        self.entries = entries
        self.rows = rows
        self.tally = tally
        self.spent = spent
        self.stage = 0
        self.begun = 0
        self.whole = True
        self.counting_seconds = 0.0
        self.faults: dict[int, str] = {}
        self.journeys = [entry.journey for entry in entries if entry.journey is not None]
        self._ids = np.arange(len(rows))
        self._waited: set[int] = set()
        self._absent: dict[int, str] = {}
        self._came: dict[int, tuple[Ints, MemberRun, Scores | None]] = {}

    @classmethod
    def join(cls, batches: "Sequence[Batch]") -> "Batch":
        """One batch of several that are at the same stage of the same policy, with the same members' votes."""
        first = batches[0]
        joined = cls(
            first.course,
            [entry for batch in batches for entry in batch.entries],
            np.concatenate([batch.rows for batch in batches]),
            Tally.join([batch.tally for batch in batches]),
            Spent.join([batch.spent for batch in batches]),
        )
        joined.stage = first.stage
        joined.whole = all(batch.whole for batch in batches)
        for batch in batches:
            joined.faults.update(batch.faults)
        return joined

    @property
    def key(self) -> tuple[str, int, bytes]:
        """Batches of the same key can be joined."""
        return self.course.policy, self.stage, self.tally.voted.tobytes()

    @property
    def waits(self) -> bool:
        """Whether anybody waits for it."""
        return bool(self.entries)

    @property
    def last(self) -> bool:
        """Whether the stage that is on is the last."""
        return self.stage + 1 == len(self.course.stages)

    @property
    def cutoff(self) -> float:
        """The first instant at which one of its requests is content with the votes that are there."""
        return min((entry.cutoff for entry in self.entries), default=math.inf)

    @property
    def open_ids(self) -> Ints:
        """Who the rows are that need more votes."""
        return self._ids if self.tally.open_rows == len(self._ids) else self._ids[self.tally.open]

    @property
    def open_rows(self) -> Rows:
        """The rows that need more votes."""
        return self.rows if self.tally.open_rows == len(self.rows) else self.rows[self.tally.open]

    def begin(self, stages: int, present: Sequence[int], absent: dict[int, str]) -> None:
        """The next so many stages are run now by the members who are `present`; those who are `absent` count as failed, and why."""
        self.begun = self.stage + stages
        self._waited.update(present)
        self._absent = absent

    def tell_of(self, run: MemberRun) -> None:
        """Let those who follow a request know of a run that it is part of."""
        for journey in self.journeys:
            if not journey.ended:
                journey.runs.append(run)

    def put(self, member: int, ids: Ints, record: MemberRun, scores: Scores | None) -> None:
        """A member's run over the rows with these identities has ended. Its votes are entered when its stage is on."""
        self._waited.discard(member)
        self._came[member] = ids, record, scores
        rows = None if self.tally.open_rows == len(self._ids) else self.tally.open
        self.spent.spend(rows, member, record.seconds, record.device_seconds / len(ids))

    @property
    def unentered(self) -> dict[int, tuple[int, Scores]]:
        """The votes that have come in and are not entered, and over how many rows, by member."""
        return {member: (len(ids), scores) for member, (ids, _, scores) in self._came.items() if scores is not None}

    def enter_stage(self) -> dict[int, str]:
        """Enter what has come in of the stage that is on. Those that turn out to be no votes: why, by member."""
        return self._enter(self.course.stages[self.stage])

    def enter_ahead(self) -> dict[int, str]:
        """The same of the stages behind it, but for who gave no votes: that fails rows only if they still need the stage."""
        ahead = [member for stage in self.course.stages[self.stage + 1 : self.begun] for member in stage]
        came = {member: self._came[member] for member in ahead if member in self._came}
        faults = self._enter_votes(
            {member: (ids, scores) for member, (ids, _, scores) in came.items() if scores is not None}
        )
        for member, (ids, record, scores) in came.items():
            if member in faults:
                record.outcome, record.fault = Outcome.FAILED, faults[member]
                self._came[member] = ids, record, None
            elif scores is not None:
                del self._came[member]
                self._end(member, OK, None)
        return faults

    def enter_rest(self) -> dict[int, str]:
        """The same of all stages that were begun."""
        return self._enter([member for stage in self.course.stages[self.stage : self.begun] for member in stage])

    def _enter(self, members: Sequence[int]) -> dict[int, str]:
        came: dict[int, tuple[Ints, Scores]] = {}
        for member in members:
            if member in self._came:
                ids, record, scores = self._came.pop(member)
                self._end(member, CODES[record.outcome], record.fault)
                if scores is not None:
                    came[member] = ids, scores
            elif member in self._absent:
                self._end(member, FAILED, self._absent.pop(member))
        faults = self._enter_votes(came)
        for member, fault in faults.items():
            self._end(member, FAILED, fault)
        return faults

    def _enter_votes(self, came: Mapping[int, tuple[Ints, Scores]]) -> dict[int, str]:
        columns: dict[int, Scores] = {}
        faults: dict[int, str] = {}
        for member, (ids, scores) in came.items():
            if scores.shape[:1] == (len(ids),):
                columns[member] = self._still_open(ids, scores)
            else:  # for the rows that it ran, whoever has left meanwhile
                faults[member] = no_votes(scores, (len(ids), self.tally.scores.shape[2]))
        return faults | self.tally.enter_all(columns)

    def pass_over(self) -> None:
        """Wait no more for the members of stages that were begun: on the rows that are open, they are late."""
        for member in self._waited:
            self._end(member, LATE, None)
        self._waited.clear()

    def _end(self, member: int, outcome: int, fault: str | None) -> None:
        rows = None if self.tally.open_rows == len(self._ids) else self.tally.open
        self.spent.end(rows, member, outcome)
        self.whole &= outcome < FAILED
        if fault:
            self.faults[member] = fault

    def _still_open(self, ids: Ints, scores: Scores) -> Scores:
        """The votes on the rows that are open, of those on the rows that were when the run began."""
        if self.tally.open_rows == len(ids):
            return scores
        return scores[np.searchsorted(ids, self.open_ids)]

    def stage_waits(self) -> bool:
        """Whether votes of the stage that is on may still come."""
        return not self._waited.isdisjoint(self.course.stages[self.stage])

    def leave(self) -> int:
        """Let rows go that need no more votes; how many."""
        before = self.tally.open_rows
        self.tally.leave(self.course.score, self.course.threshold)
        return before - self.tally.open_rows

    def late(self, absent: Mapping[int, str]) -> None:
        """Members of the policy whose votes are not there yet, on rows that need them, are late, or failed if they are `absent`."""
        open_rows = self.tally.open
        for member in (member for stage in self.course.stages for member in stage):
            self.spent.spread()
            missing = open_rows[self.spent.outcome[open_rows, member] == SKIPPED]
            if len(missing):
                self.spent.end(missing, member, FAILED if member in absent else LATE)
                self.whole = False
                if member in absent:
                    self.faults[member] = absent[member]

    def quorate(self) -> Mask:
        """Which rows have a quorum, as far as members are missing that should have voted; [n], or [1] for all alike."""
        holds: Mask = self.course.size - self.spent.missing() >= self.course.quorum
        return holds

    def finished(self) -> list[int]:
        """Which requests need no more votes for any of their rows."""
        if self.stage == len(self.course.stages) or not self.tally.open_rows:
            return list(range(len(self.entries)))
        if self.tally.open_rows == len(self._ids):
            return []
        waits = np.zeros(len(self._ids), np.bool_)
        waits[self.tally.open] = True
        if len(self.entries) < len(waits):
            waits = np.logical_or.reduceat(waits, self.starts[:-1])
        return np.flatnonzero(~waits).tolist()

    @property
    def starts(self) -> Ints:
        """Where each request's rows begin, and where the last ones end."""
        return np.cumsum([0, *(len(entry.rows) for entry in self.entries)])

    def take(self, numbers: Sequence[int]) -> "Batch":
        """A batch of these requests alone, as far as they have come."""
        rows = np.array(numbers, np.int64)
        if len(self.entries) < len(self._ids):
            starts = self.starts
            spans = [np.arange(starts[number], starts[number + 1]) for number in numbers]
            rows = np.concatenate(spans) if spans else rows
        taken = Batch(
            self.course,
            [self.entries[number] for number in numbers],
            self.rows[rows],
            self.tally.take(rows),
            self.spent.take(rows),
        )
        taken.stage, taken.begun, taken.faults, taken._ids = self.stage, self.begun, self.faults, self._ids[rows]
        taken.whole, taken.counting_seconds = self.whole, self.counting_seconds
        taken._waited, taken._came, taken._absent = set(self._waited), dict(self._came), dict(self._absent)
        return taken

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these requests alone."""
        if len(numbers) == len(self.entries):
            return
        kept = self.take(numbers)
        self.entries, self.rows, self._ids = kept.entries, kept.rows, kept._ids
        self.tally, self.spent, self.journeys = kept.tally, kept.spent, kept.journeys

    def without(self, numbers: Sequence[int]) -> None:
        """Go on without these requests."""
        gone = set(numbers)
        self.keep([number for number in range(len(self.entries)) if number not in gone])

    def without_gone(self) -> None:
        """Go on without those whose callers have left."""
        if any(entry.gone for entry in self.entries):
            self.without([number for number, entry in enumerate(self.entries) if entry.gone])
