"""The processes that make the load. The one that shows it makes none, so that drawing a table delays no request."""

import asyncio
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeAlias

from loadtest import data as rows
from loadtest.data import DataError
from loadtest.jobs import Beat, Job, Outcome
from loadtest.runner import Load
from loadtest.targets.answers import TargetError

BEAT_SECONDS = 1.0
LEAD_SECONDS = 0.3
"""Between telling the workers to start and the start, so that all have heard."""

STOP = "interrupted"

PRIORITY = 1
"""The lowest real-time one, where the system allows it: Linux lets others that share the core run for milliseconds before anyone
who is not real-time, whatever their niceness, and a generator that waits for a core is late."""


class WorkerError(Exception):
    """A worker could not begin, or broke; one line."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What all workers measured. `started_at`: Unix time of instant 0."""

    outcomes: list[Outcome]
    started_at: float


Line: TypeAlias = "Connection[Any, Any]"

Word = Outcome | list[Beat] | None
"""What a worker says: that it is ready, what a second brought, what it measured; a text is why it cannot go on."""

Watch = Callable[[float, list[Beat]], None]
"""Told once a second how long the run has lasted, and what happened since."""


def run(jobs: Sequence[Job], watch: Watch, start_at: float | None = None) -> Finished:
    """Run the jobs side by side. `start_at`: Unix time of the first counted request; None: as soon as all are ready.

    An interrupt ends the load early, and what was measured is kept. Raises WorkerError.
    """
    context = multiprocessing.get_context("spawn")
    lines: list[Line] = []
    processes: list[SpawnProcess] = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            lines.append(ours)
            processes.append(process)
        return _Crew(lines, watch).led(jobs[0].warm_up, start_at)
    finally:
        for process in processes:
            process.join(2.0)
            if process.is_alive():
                process.kill()


class _Crew:
    """The workers under way, and what they have told."""

    def __init__(self, lines: Sequence[Line], watch: Watch) -> None:
        self._lines, self._watch = lines, watch
        self._start = 0.0
        self._outcomes: dict[Line, Outcome] = {}
        self._beats: list[Beat] = []
        self._heard = 0
        self._interrupted = False

    def led(self, warm_up: float, start_at: float | None) -> Finished:
        """From the first word of each to the last."""
        for line in self._lines:
            _received(line)  # that it is ready
        self._start, started_at = _instant(warm_up, start_at)
        self._tell(self._start)
        while len(self._outcomes) < len(self._lines):
            try:
                self._listen()
            except KeyboardInterrupt:
                if self._interrupted:
                    raise
                self._interrupted = True
                self._tell(STOP)
        return Finished([self._outcomes[line] for line in self._lines], started_at)

    def _tell(self, word: float | str) -> None:
        for line in self._lines:
            with suppress(OSError):
                line.send(word)

    def _listen(self) -> None:
        for line in wait([line for line in self._lines if line not in self._outcomes]):
            found = _received(line)  # type: ignore[arg-type]
            if isinstance(found, Outcome):
                self._outcomes[line] = found  # type: ignore[index]
            elif found is not None:
                self._hear(found)

    def _hear(self, beats: list[Beat]) -> None:
        """Pass on what one second brought once all have told of it."""
        self._heard += 1
        for mine, theirs in zip(self._beats, beats, strict=False):
            mine.merge(theirs)
        self._beats = self._beats or beats
        if self._heard % len(self._lines) == 0:
            self._watch(time.perf_counter() - self._start, self._beats)
            self._beats = []


def _instant(warm_up: float, start_at: float | None) -> tuple[float, float]:
    """When instant 0 is, by the monotonic clock and by the calendar. Raises WorkerError."""
    now, today = time.perf_counter(), time.time()
    soonest = now + LEAD_SECONDS + warm_up
    if start_at is None:
        return soonest, today + soonest - now
    if now + start_at - today < soonest:
        raise WorkerError(
            f"--start-at: found a start {soonest - now - start_at + today:.1f} s too early for this process to be ready, expected a later one"
        )
    return now + start_at - today, start_at


def _received(line: Line) -> Word:
    """Raises WorkerError for a worker that could not go on."""
    try:
        word: Word | str = line.recv()
    except EOFError:
        raise WorkerError("a worker process ended before its time, expected what it measured") from None
    if isinstance(word, str):
        raise WorkerError(word)
    return word


def _work(job: Job, line: Line) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process tells us what to do
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    try:
        import uvloop

        uvloop.run(_serve(job, line))
    except (DataError, TargetError) as error:
        line.send(str(error))
    except (BrokenPipeError, EOFError):
        return  # nobody is left to tell
    except Exception:  # whatever it is, the first process shows it
        line.send(f"a worker broke: {traceback.format_exc()}")


async def _serve(job: Job, line: Line) -> None:
    load = Load(job, rows.load(job.data, job.description, job.seed))
    await load.open()
    line.send(None)
    loop = asyncio.get_running_loop()
    start = await loop.run_in_executor(None, line.recv)
    loop.add_reader(line.fileno(), lambda: _hear(line, load))
    os.set_blocking(line.fileno(), True)  # the loop made it one that does not wait, and what is long would be cut off
    beating = loop.create_task(_beat(load, line))
    outcome = await load.run(start)
    beating.cancel()
    loop.remove_reader(line.fileno())
    line.send(outcome)


def _hear(line: Line, load: Load) -> None:
    try:
        load.stop(line.recv())
    except EOFError:
        load.stop("the process that watches ended")
        asyncio.get_running_loop().remove_reader(line.fileno())


async def _beat(load: Load, line: Line) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        line.send(load.beats())
