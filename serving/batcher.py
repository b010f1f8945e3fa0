"""Drives one ensemble's queue and members: whenever an executor is free, what waits runs. Does; decides nothing."""

import asyncio
import ctypes
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Member, MemberError, Rows
from ensembles.spec import EnsembleSpec
from ensembles.tally import BadVote, Tally
from serving.batch_queue import BatchQueue
from serving.errors import BelowQuorum, DeadlinePassed, Fault, Internal
from serving.ledger import Account, Ledger
from serving.records import Counted, MemberRun, Outcome
from serving.statistics import Statistics
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)

yield_core = ctypes.CDLL(None).sched_yield  # unlike os.sched_yield it lets go of the interpreter meanwhile
YIELDS, QUIET = 12, 3
"""At the most so many between two batches, and no more once nothing came of so many: to get here, what arrives takes one for its
headers, one for its body, and the client that has just been answered one to ask again."""


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
        self._stages = _stages(spec)
        self._accounts = {
            policy: [Account(spec.name, policy, member.name) for member in members] for policy in self._stages
        }
        self._skipped = [MemberRun(member.name, Outcome.SKIPPED, member.device) for member in members]
        self._free = executors
        self._drivers: set[asyncio.Task[None]] = set()

    def submit(self, entry: Entry) -> None:
        """Let `entry` wait for its turn, which comes at once where an executor is free."""
        self.queue.push(entry)
        if self._free:
            self._free -= 1
            driver = asyncio.get_running_loop().create_task(self._drive())
            self._drivers.add(driver)
            driver.add_done_callback(self._drivers.discard)

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
            waiting = len(self.queue)
            yield_core()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.queue) == waiting else 0
            if quiet == QUIET:
                return

    async def _run(self, batch: list[Entry]) -> None:
        try:
            counted = await self.count(_joined(batch), batch[0].policy, batch)
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
                entry.answer(counted, start)
                start += len(entry.rows)

    async def count(self, rows: Rows, policy: str, batch: Sequence[Entry] = ()) -> Counted:
        """Run the members that `policy` asks for over `rows` and count their votes. Raises BelowQuorum."""
        started = time.perf_counter()
        for entry in batch:
            entry.started = started
        _, quorum = self._stages[policy]
        tally = Tally(self._ballot, len(rows), len(self._spec.labels))
        runs = await self._fill(tally, policy, rows)
        computed = time.perf_counter()
        self._books.telemetry.runs(self._spec.name, policy, len(rows), runs)
        if tally.votes < quorum:
            raise BelowQuorum(_missing(tally.votes, quorum, runs))
        result = tally.answer()
        counted = Counted(
            ensemble=self._spec.name,
            policy=policy,
            rows=len(rows),
            result=result,
            runs=runs,
            exact=tally.complete,
            compute_seconds=computed - started,
            vote_seconds=time.perf_counter() - computed,
        )
        self._books.telemetry.batch(counted)
        self._books.statistics.batch(counted, len(batch))
        return counted

    async def _fill(self, tally: Tally, policy: str, rows: Rows) -> tuple[MemberRun, ...]:
        """Run the members that `policy` asks for, enter what comes back, and tell what became of every member."""
        runs, (stage, _) = list(self._skipped), self._stages[policy]
        if all(self._members[index].brief(len(rows)) for index in stage):
            for index in stage:
                runs[index] = await self._column(tally, index, rows, policy)
        else:
            columns = await asyncio.gather(*(self._column(tally, index, rows, policy) for index in stage))
            for index, run in zip(stage, columns, strict=True):
                runs[index] = run
        return tuple(runs)

    async def _column(self, tally: Tally, index: int, rows: Rows, policy: str) -> MemberRun:
        member = self._members[index]
        occupation = self._devices[index].occupation(self._accounts[policy][index])
        fault = None
        try:
            tally.enter(index, await member.run(rows, occupation))
        except Exception as error:
            expected = isinstance(error, (MemberError, BadVote))
            fault = str(error) if expected else f"{type(error).__name__}; this is a bug"
            log.warning("member %s.%s failed: %s", self._spec.name, member.name, fault, exc_info=not expected)
        return MemberRun(
            member=member.name,
            outcome=Outcome.OK if fault is None else Outcome.FAILED,
            device=member.device,
            seconds=occupation.seconds,
            device_seconds=occupation.device_seconds,
            cost_usd=self._books.ledger.cost_usd(occupation.device_seconds),
            charged_seconds=occupation.charged,
            fault=fault,
        )


def _stages(spec: EnsembleSpec) -> dict[str, tuple[tuple[int, ...], int]]:
    """Which members each policy runs, by index, and its quorum."""
    stages = {"full": (tuple(range(len(spec.members))), spec.vote.quorum)}
    for index, member in enumerate(spec.members):
        stages[spec.MEMBER_PREFIX + member.name] = ((index,), 1)
    return stages


def _joined(batch: Sequence[Entry]) -> Rows:
    return batch[0].rows if len(batch) == 1 else np.concatenate([entry.rows for entry in batch])


def _missing(votes: int, quorum: int, runs: Sequence[MemberRun]) -> str:
    names = ", ".join(run.member for run in runs if run.outcome is Outcome.FAILED)
    return f"{votes} members voted, the quorum is {quorum}; failed: {names}"
