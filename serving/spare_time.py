"""What is done beside the traffic, in the time that it leaves: rows that were answered are looked at again.

Never at the expense of a request: a step begins only while the ensemble has nothing else to do, takes a few rows, and ends
before the next one begins. And never without limit: the rows are a sample, as many wait as fit into bounded memory, and the
device time that they take has a budget.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from ensembles.members import Member, Rows, Scores
from serving.batcher import Batcher
from serving.records import Counted

log = logging.getLogger(__name__)

STEP_ROWS = 8
"""Rows of one step: a request that arrives meanwhile finds the cores busy for no longer than that takes."""

KEPT_ROWS, KEPT_BYTES = 1024, 1 << 24
"""At the most so many rows wait, of at the most so many bytes together (but one always may)."""

PATIENCE_SECONDS = 10.0
"""A step that takes longer is given up."""

LONGEST_WAIT_SECONDS = 1.0
"""From one step to the next, where the ensemble is never idle."""

PAUSE_SECONDS = 0.01
"""How often a busy ensemble is asked whether it is idle now."""

T = TypeVar("T")


class Quota(Generic[T]):
    """Which rows are looked at again, how many of them may wait, and how much device time they may take.

    `share`: of all rows, drawn independently of what they hold and of what was answered. `budget`: device time at the most, as
    a share of what the answers took. Before a step, only what was used before is known: it is exceeded by one step at the most.
    """

    def __init__(self, share: float, budget: float, row_bytes: int, random: Random | None = None) -> None:
        self._share, self._budget = share, budget
        self._random = random or Random()  # noqa: S311  a sample, no secret
        self._room = max(1, min(KEPT_ROWS, KEPT_BYTES // row_bytes))
        self._waiting: deque[T] = deque()
        self._earned = self._spent = 0.0
        self._passed_over = self._gap()

    def _gap(self) -> float:
        """How many rows are passed over until the next one that is drawn: geometric, as if a coin were thrown for each."""
        if self._share in (0.0, 1.0):
            return math.inf if self._share == 0.0 else 0
        gap = math.log(1.0 - self._random.random()) / math.log1p(-self._share)
        return math.floor(gap) if math.isfinite(gap) else gap

    def draw(self, rows: int) -> list[int]:
        """Which of the next so many rows are looked at again."""
        drawn = []
        while self._passed_over < rows:
            drawn.append(int(self._passed_over))
            self._passed_over += 1 + self._gap()
        self._passed_over -= rows
        return drawn

    def keep(self, row: T) -> bool:
        """Let a row that was drawn wait for its turn. False where there is no room: the newest has to go."""
        if len(self._waiting) == self._room:
            return False
        self._waiting.append(row)
        return True

    def take(self) -> list[T]:
        """The rows of one step, those that have waited longest."""
        return [self._waiting.popleft() for _ in range(min(STEP_ROWS, len(self._waiting)))]

    def earn(self, counted: Counted) -> None:
        """Answers were given, and took device time."""
        if self._share:
            self._earned += counted.spent.all_device_seconds

    def spend(self, device_seconds: float) -> None:
        """A step took that much."""
        self._spent += device_seconds

    @property
    def due(self) -> bool:
        """Whether rows wait and the budget allows for a step."""
        return bool(self._waiting) and self._spent < self._budget * self._earned


class Job(Protocol):
    """One reason to look at rows again."""

    def watch(self, rows: Rows, counted: Counted) -> None:
        """Rows [n, *shape] were answered. Takes microseconds."""

    @property
    def due(self) -> bool:
        """Whether there is something to do."""

    async def step(self, batcher: Batcher) -> None:
        """Do a little of it."""

    def close(self) -> None:
        """Free what it holds."""


class SpareTime:
    """The jobs of one ensemble, one step at a time, in turn."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def watch(self, rows: Rows, counted: Counted) -> None:
        """Rows [n, *shape] were answered. Never raises: an answer must not suffer from who looks on."""
        try:
            for job in self._jobs:
                job.watch(rows, counted)
                if job.due:
                    self._due.set()
        except Exception:
            log.exception("watching the answers of %s broke; this is a bug", counted.ensemble)

    def start(self, batcher: Batcher) -> None:
        """Work from now on, until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._work(batcher))

    def stop(self) -> None:
        """Do no more, and free what the jobs hold. More than once is as good as once."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            for job in self._jobs:
                job.close()

    async def _work(self, batcher: Batcher) -> None:
        done = 0
        while True:
            due = [job for job in self._jobs if job.due]
            if not due:
                self._due.clear()
                await self._due.wait()
                continue
            await until_idle(batcher)
            try:
                await due[done % len(due)].step(batcher)
            except Exception:
                log.exception("looking at answers again broke; this is a bug")
            done += 1
            await asyncio.sleep(0)


async def until_idle(batcher: Batcher) -> None:
    """Wait for the traffic to leave time, or for long enough: under a load that never pauses, one looks at answers all the same."""
    until = time.perf_counter() + LONGEST_WAIT_SECONDS
    while not batcher.idle and time.perf_counter() < until:  # noqa: ASYNC110  an event would cost every request something
        await asyncio.sleep(PAUSE_SECONDS)


async def observed(
    batcher: Batcher, rows: Rows, members: Sequence[Member], purpose: str, patience: float = PATIENCE_SECONDS
) -> tuple[float, list[Scores] | None]:
    """Run members over rows: the device seconds that it took, and their columns; None where one gave none in time."""
    try:
        async with asyncio.timeout(patience):
            found = await batcher.observe(rows, members, purpose)
    except TimeoutError:
        return patience, None
    columns = [scores for _, scores in found if scores is not None]
    return sum(run.device_seconds for run, _ in found), columns if len(columns) == len(members) else None
