"""When requests leave: at planned instants, or when others are answered."""

import asyncio
import time
from array import array
from typing import Protocol

import numpy as np

from loadtest import pacing
from loadtest.jobs import Job
from loadtest.targets.answers import Call, Raw

AT_ONCE = 64
"""Requests sent before the loop reads again, when many are due."""

PAUSE_SECONDS = 0.05
"""Before a worker of the closed loop asks a server again that is not there."""


class Sender(Protocol):
    """What a loop needs of a load. `finished`: that no more are to be sent."""

    job: Job
    finished: asyncio.Event

    def send(self, arm: int, turn: int, planned: float) -> None: ...
    def unsent(self, arm: int, planned: float, now: float) -> None: ...


class Loop(Protocol):
    def begin(self, start: float) -> None: ...
    def ended(self, call: Call, raw: Raw) -> None:
        """A request is over."""
        ...

    def stop(self, now: float) -> None: ...


class OpenLoop:
    """Sends at the planned instants, whatever the server does."""

    def __init__(self, load: Sender) -> None:
        part, share, arms = load.job.schedule(), load.job.part, len(load.job.policies)
        warm = _warm_up(load.job, len(part))
        self._load = load
        self._instants = array("d", [*warm, *part.instants])
        self._arms = array("q", [*((share[0] + place) % arms for place in range(len(warm))), *part.arm])
        self._turns = array("q", [*range(len(warm)), *part.turn])
        self._next = 0
        self._start = 0.0
        self._alarm: pacing.Alarm | None = None

    def begin(self, start: float) -> None:
        self._start = start
        self._alarm = pacing.Alarm(self._ring)
        self._set()

    def ended(self, call: Call, raw: Raw) -> None:
        """The next one does not depend on it."""

    def stop(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.close()
        while self._next < len(self._instants) and self._start + self._instants[self._next] < now:
            self._load.unsent(self._arms[self._next], self._start + self._instants[self._next], now)
            self._next += 1

    def _set(self) -> None:
        if self._alarm is None or self._load.finished.is_set():
            return
        if self._next < len(self._instants):
            self._alarm.set(self._start + self._instants[self._next])
        else:
            self._alarm.close()
            self._load.finished.set()

    def _ring(self) -> None:
        """The alarm is early, so wait for the first; then send what is due by now."""
        now = pacing.wait_until(self._start + self._instants[self._next])
        for _ in range(AT_ONCE):
            if self._next == len(self._instants) or self._start + self._instants[self._next] > now:
                break
            place, self._next = self._next, self._next + 1
            self._load.send(self._arms[place], self._turns[place], self._start + self._instants[place])
            now = time.perf_counter()
        self._set()


def _warm_up(job: Job, requests: int) -> list[float]:
    """Instants before 0, evenly, at the mean rate of the load."""
    if not job.warm_up:
        return []
    count = max(int(requests / job.duration * job.warm_up), 1)
    return [job.warm_up * (place / count - 1) for place in range(count)]


class ClosedLoop:
    """Sends the next when one is answered, as so many callers would that wait: not how the world sends, and easy on a slow server."""

    def __init__(self, load: Sender) -> None:
        self._load = load
        self._order = _Blocks(load.job)
        self._end = 0.0
        self._timers: list[asyncio.TimerHandle] = []

    def begin(self, start: float) -> None:
        self._end = start + self._load.job.duration
        loop = asyncio.get_running_loop()
        delay = max(start - self._load.job.warm_up - time.perf_counter(), 0)
        self._timers = [loop.call_later(delay, self._send) for _ in range(self._load.job.concurrency)]
        self._timers.append(loop.call_later(self._end - time.perf_counter(), self._load.finished.set))

    def ended(self, call: Call, raw: Raw) -> None:
        if raw.lost:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._send)
        else:
            self._send()

    def stop(self, now: float) -> None:
        for timer in self._timers:
            timer.cancel()

    def _send(self) -> None:
        now = time.perf_counter()
        if self._load.finished.is_set() or now >= self._end:
            return
        arm, turn = self._order.next()
        self._load.send(arm, turn, now)


class _Blocks:
    """Policies in blocks of one each, in an order by chance, as in a schedule; workers walk the rows in turns."""

    def __init__(self, job: Job) -> None:
        self._rng = np.random.default_rng([job.seed, 4, job.part[0]])
        self._arms = len(job.policies)
        self._turn, self._step = job.part[0] - 1 - job.part[1], job.part[1]
        self._left: list[int] = []

    def next(self) -> tuple[int, int]:
        if not self._left:
            self._left = self._rng.permutation(self._arms).tolist()
            self._turn += self._step
        return self._left.pop(), self._turn
