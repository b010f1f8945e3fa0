"""A member at work: runs it over rows, charges its device, and knows whether it is in rotation."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ensembles.members import SHORT_SECONDS, Member, MemberError, Rows, Scores
from ensembles.members.parts import joined
from serving.books import Books
from serving.breath import give_way
from serving.ledger import Account, Occupation
from serving.records import MemberRun, Outcome
from serving.rotation import FAULTS, Rotation

log = logging.getLogger(__name__)

OVERDUE = 3.0
"""How many times as long as predicted a run takes before nobody counts on it, and no other run of its member begins."""

LEAST_OVERDUE_SECONDS = 0.02
"""Shorter than that is no sign of anything: the machine may have been elsewhere."""

HUNG, LEAST_HUNG_SECONDS = 5.0, 0.5
"""How many times as long as predicted, and how long, a run takes before it counts as a fault: less may be the machine's doing."""

LEAST_PIECE = 8
"""Rows: what a run costs by itself, and others' turns between two of them, would be too much of a smaller one."""

LOSS = 1.5
"""A run in pieces takes so many times as long at the most as the whole would."""

UNKNOWN_SECONDS = 1.0
"""What is predicted of a member that has never run."""


@dataclass(eq=False, slots=True)
class Run:
    """One run and what came of it. `overdue_at`, `hung_at`: instants, once it has begun. `given_up`: why nobody waits any more."""

    record: MemberRun
    overdue_at: float = float("inf")
    hung_at: float = float("inf")
    given_up: str = ""
    scores: Scores | None = None


@dataclass(frozen=True, slots=True)
class Pieces:
    """That a run is made so many rows at a time, others having their turn in between, as long as it is wanted."""

    rows: int
    wanted: Callable[[], bool]


class _Once:
    """Does something the first time it is called."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


class Seat:
    """One member of an ensemble. `slots` lets so many longer runs work at once, those that are overdue not counted."""

    def __init__(self, ensemble: str, member: Member, books: Books, slots: asyncio.Semaphore) -> None:
        self.member = member
        self.rotation = Rotation()
        self._ensemble = ensemble
        self._books = books
        self._slots = slots
        self._device = books.ledger.device(member.device)
        self._accounts: dict[str, Account] = {}
        self._begun: list[Run] = []
        self._freed = asyncio.Event()

    def predict(self, rows: int) -> float:
        """Seconds that a run of so many rows will take."""
        predicted = self.member.predict(rows)
        return UNKNOWN_SECONDS if predicted is None else predicted

    def run(self, rows: Rows) -> Run:
        """A run that has not begun."""
        return Run(MemberRun(self.member.name, Outcome.OK, self.member.device, len(rows)))

    def overdue(self, now: float) -> bool:
        """Whether a run of it takes far longer than it should."""
        return any(run.overdue_at <= now for run in self._begun)

    def hung(self, now: float) -> bool:
        """Whether a run of it takes so long that this is a fault, also to those who wait for their turn behind it."""
        return any(run.hung_at <= now for run in self._begun)

    def piece(self, rows: int, at_most: float) -> int:
        """How many of so many rows at a time hold the event loop for less than `at_most` seconds: all, or a power of two, which is
        what times are known of; 0 if none do."""
        if self.member.brief(rows, at_most):
            return rows
        piece, whole = 1 << (rows - 1).bit_length(), self.predict(rows)
        while piece > LEAST_PIECE:
            piece //= 2
            if self.member.brief(piece, at_most) and rows * self.predict(piece) <= LOSS * piece * whole:
                return piece
        return 0

    async def work(
        self, run: Run, rows: Rows, purpose: str, at_most: float = SHORT_SECONDS, pieces: Pieces | None = None
    ) -> None:
        """Run it at once: on the event loop where that will take less than `at_most` seconds, else wherever the member likes."""
        account = self._accounts.get(purpose)
        if account is None:
            account = self._accounts[purpose] = Account(self._ensemble, purpose, self.member.name)
        run.record.hold = occupation = self._device.occupation(account)
        try:
            if pieces is None:
                run.scores = await self.member.run(rows, occupation, at_most)
            else:
                run.scores = await self._piecewise(run, rows, occupation, at_most, pieces)
        except MemberError as error:
            self.failed(run, str(error))
        except asyncio.CancelledError:
            run.given_up = run.given_up or "cancelled"
            raise
        except Exception as error:
            self.failed(run, f"{type(error).__name__}; this is a bug", error)
        finally:
            self._book(run, occupation, purpose)

    async def _piecewise(
        self, run: Run, rows: Rows, occupation: Occupation, at_most: float, pieces: Pieces
    ) -> Scores | None:
        """None once nobody wants it any more."""
        scores: list[Scores] = []
        for start in range(0, len(rows), pieces.rows):
            if scores:
                await give_way()
                if not pieces.wanted():
                    run.given_up = "cancelled"
                    return None
            some = rows[start : start + pieces.rows]
            scores.append(await self.member.run(some, occupation, at_most))
        return joined(scores, len(rows), pieces.rows)

    async def work_in_turn(self, run: Run, rows: Rows, purpose: str) -> None:
        """Run it once a slot is free and no other run of it is overdue. Cancelled, it ends when its device is free."""
        slot = await self._slot()
        predicted, now = self.predict(len(rows)), time.perf_counter()
        patience = max(OVERDUE * predicted, LEAST_OVERDUE_SECONDS)
        alarm = asyncio.get_running_loop().call_later(patience, slot)
        run.overdue_at, run.hung_at = now + patience, now + max(HUNG * predicted, LEAST_HUNG_SECONDS)
        self._begun.append(run)
        try:
            await self.work(run, rows, purpose)
        finally:
            alarm.cancel()
            slot()
            self._begun.remove(run)
            self._freed.set()

    async def _slot(self) -> _Once:
        """To be given back. Which run is overdue is asked again once it is there: it may have been long in coming."""
        while True:
            while self.overdue(time.perf_counter()):
                self._freed.clear()
                await self._freed.wait()
            await self._slots.acquire()
            if not self.overdue(time.perf_counter()):
                return _Once(self._slots.release)
            self._slots.release()

    def _book(self, run: Run, occupation: Occupation, purpose: str) -> None:
        record, books = run.record, self._books
        record.seconds, record.device_seconds = occupation.seconds, occupation.device_seconds
        record.charged_seconds = occupation.charged
        record.cost_usd = self._device.cost_usd(occupation.device_seconds)
        books.telemetry.ran(self._ensemble, purpose, record)
        if run.given_up or run.scores is None:
            books.telemetry.wasted(self._ensemble, record, run.given_up or record.outcome.value)

    def failed(self, run: Run, fault: str, bug: Exception | None = None) -> None:
        """The run gave no votes."""
        log.warning("member %s.%s failed: %s", self._ensemble, self.member.name, fault, exc_info=bug)
        run.record.outcome, run.record.fault = Outcome.FAILED, fault

    def heard(self) -> bool:
        """It voted. Whether it is back in rotation by that."""
        if not self.rotation.answered():
            return False
        log.warning("member %s.%s is back in rotation", self._ensemble, self.member.name)
        return True

    def unheard(self) -> bool:
        """It was asked and gave no vote. Whether it leaves the rotation by that."""
        if not self.rotation.failed(time.perf_counter()):
            return False
        log.warning("member %s.%s left the rotation after %d faults in a row", self._ensemble, self.member.name, FAULTS)
        return True
