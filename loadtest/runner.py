"""One process's load: never waits before the next send; every request is counted, however it ends.

`Load` sends and keeps the books; `loops.py` says when.
"""

import asyncio
import gc
import math
import time

from loadtest import schedule
from loadtest.data import Data
from loadtest.jobs import Beat, Job, Outcome
from loadtest.loops import ClosedLoop, Loop, OpenLoop
from loadtest.records import ArmRecord
from loadtest.targets import opening
from loadtest.targets.answers import BAD_ANSWER, DEADLINE, OK, Answer, Call, Raw

SWEEP_SECONDS = 0.005
"""Between looks at whose deadline has passed."""

MOST_ENCODED_BYTES = 1 << 30


class Load:
    """The requests of one worker: encoded before the run, in flight, and what became of them."""

    def __init__(self, job: Job, data: Data) -> None:
        """Raises DataError, TargetError."""
        self.job = job
        self.finished = asyncio.Event()
        self.arms = [ArmRecord(name, job.slot_seconds) for name in job.names]
        self.start = 0.0
        self.stopped = ""
        self._beats = [Beat() for _ in job.names]
        self._codec = opening.codec(job.address, job.description, job.options)
        self._caller = opening.caller(job.address, job.options, self._done)
        self._heads = [self._codec.head(policy) for policy in job.policies]
        self._encode(data)
        self._loop: Loop = OpenLoop(self) if job.course else ClosedLoop(self)
        self._in_flight: dict[Call, None] = {}
        self._drained = asyncio.Event()
        self._lost_since: float | None = None
        self._last_outcome = 0.0
        self._warm_up_errors = 0
        self._messages: dict[str, str] = {}

    def _encode(self, data: Data) -> None:
        """The distinct requests' rows, in the order that all policies walk them."""
        rows, order = self.job.options.rows, schedule.row_order(len(data.x), self.job.seed)
        size = max(data.x[:1].nbytes * rows, 1)
        distinct = min(len(order) // math.gcd(len(order), rows), max(MOST_ENCODED_BYTES // size, 1))
        places = [[int(order[(turn * rows + row) % len(order)]) for row in range(rows)] for turn in range(distinct)]
        self._rows = places
        self._tails = [self._codec.tail(data.x[each]) for each in places]

    async def open(self) -> None:
        """Raises TargetError."""
        await self._caller.open()

    async def run(self, start: float) -> Outcome:
        """From the instant `start` of the monotonic clock to the end. The clock of the warm-up runs before it."""
        self.start = start
        loop = asyncio.get_running_loop()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here leaves cycles behind, and a collection would make requests late
        sweeper = loop.create_task(self._sweep()) if self.job.options.deadline else None
        try:
            self._loop.begin(start)
            cpu, began = time.process_time(), time.perf_counter()
            await self.finished.wait()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - began
            await self._drain()
        finally:
            gc.enable()
            if sweeper is not None:
                sweeper.cancel()
        now = time.perf_counter()
        for call in list(self._in_flight):
            self._give_up(call, now)
        await self._caller.close()
        return Outcome(
            self.arms, cpu, wall, self._last_outcome - start, self.stopped, self._warm_up_errors, self._messages
        )

    async def _drain(self) -> None:
        patience = min(self.job.drain, 1.0) if self.stopped else self.job.drain
        if self._in_flight:
            try:
                await asyncio.wait_for(self._drained.wait(), patience)
            except TimeoutError:
                return

    def stop(self, why: str) -> None:
        """Send no more."""
        if not self.finished.is_set():
            now = time.perf_counter()
            self.stopped = f"{why} after {max(now - self.start, 0):.1f} s"
            self._loop.stop(now)
            self.finished.set()

    def beats(self) -> list[Beat]:
        """What happened since the last time; one a policy."""
        found, self._beats = self._beats, [Beat() for _ in self.arms]
        return found

    def send(self, arm: int, turn: int, planned: float) -> None:
        call = Call(arm, turn % len(self._tails), planned)
        self._in_flight[call] = None
        self._caller.send(call, self._heads[arm], self._tails[call.block])
        since = planned - self.start
        if since >= 0:
            self.arms[arm].sent(since, call.sent - self.start)
            self._beats[arm].sent += 1

    def unsent(self, arm: int, planned: float, now: float) -> None:
        """It was due, and its turn did not come."""
        if planned >= self.start:
            self.arms[arm].unsent(planned - self.start, now - self.start)

    def _done(self, call: Call, raw: Raw, now: float) -> None:
        if call not in self._in_flight:
            return  # given up before
        del self._in_flight[call]
        call.state = None
        self._count(call, self._answer(raw), now)
        if raw.lost:
            self._miss(raw, now)
        else:
            self._lost_since = None
        self._loop.ended(call, raw)
        if not self._in_flight and self.finished.is_set():
            self._drained.set()

    def _answer(self, raw: Raw) -> Answer:
        if raw.code != OK:
            return Answer([], code=raw.code, message=raw.message)
        try:
            answer = self._codec.decode(raw)
        except Exception as error:  # whatever a server sends must not stop the run
            return Answer([], code=BAD_ANSWER, message=f"found no answer ({type(error).__name__}: {error})")
        if answer.code == OK and len(answer.labels) != self.job.options.rows:
            message = f"found {len(answer.labels)} labels, expected {self.job.options.rows}"
            return Answer([], code=BAD_ANSWER, message=message)
        return answer

    def _count(self, call: Call, answer: Answer, now: float) -> None:
        planned, done = call.planned - self.start, now - self.start
        if planned < 0:
            self._warm_up_errors += answer.code != OK
            return
        self._last_outcome = now
        arm, beat = self.arms[call.arm], self._beats[call.arm]
        if answer.code != OK:
            arm.failed(planned, done, answer.code)
            beat.errors += 1
            self._messages.setdefault(answer.code, answer.message)
            return
        rows = len(answer.labels)
        arm.answered(planned, call.sent - self.start, done, rows)
        arm.partial += answer.partial
        arm.degraded += answer.degraded
        for row, label in zip(self._rows[call.block], answer.labels, strict=True):
            arm.answers.note(row, label)
        if answer.device_seconds or answer.cost_usd:
            arm.charge(done, rows, answer.device_seconds, answer.cost_usd)
        beat.done += 1
        beat.latency.record(done - planned)

    def _give_up(self, call: Call, now: float) -> None:
        self._in_flight.pop(call, None)
        if call.planned >= self.start:
            self.arms[call.arm].unfinished(call.planned - self.start, now - self.start)
            self._last_outcome = now
        call.state = None

    def _miss(self, raw: Raw, now: float) -> None:
        if self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since > self.job.give_up:
            self.stop(f"the target went away ({raw.message}): gave up")

    async def _sweep(self) -> None:
        """Requests leave in the order of their deadlines, so only the oldest need be looked at."""
        deadline = self.job.options.deadline
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.perf_counter()
            while self._in_flight and (call := next(iter(self._in_flight))).sent + deadline < now:
                self._caller.forget(call)
                self._done(call, Raw(DEADLINE, f"found no answer within {deadline:g} s", b"", b""), now)
