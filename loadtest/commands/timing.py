"""When to send, as it is typed, to a load."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from loadtest import stages
from loadtest.commands import USAGE, Fault, options
from loadtest.jobs import Course
from loadtest.measuring import Load
from loadtest.schedule import Arrivals, ScheduleError, recorded, steady
from loadtest.stages import StagesError

DEFAULT_RATE = 100.0
"""Requests/s where nothing is said."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When to send, as it was typed."""

    rate: float | None
    concurrency: int | None
    arrivals: str
    burstiness: float
    stages: str | None
    trace: Path | None
    duration: str


def planned(
    timing: Timing,
    warm_up: str,
    drain: str,
    give_up: str,
    seed: int,
    workers: int,
    shard: str | None,
    start_at: str | None,
) -> Load:
    """Raises Fault."""
    course, duration = _course(timing, seed)
    place, of = shard_of(shard)
    return Load(
        course=course,
        duration=duration,
        seed=seed,
        concurrency=timing.concurrency or 0,
        warm_up=options.seconds("--warm-up", warm_up),
        drain=options.seconds("--drain", drain),
        give_up=options.seconds("--give-up", give_up),
        workers=min(workers, timing.concurrency or workers),
        shard=place,
        of_shards=of,
        start_at=instant(start_at),
        stages=timing.stages or "",
    )


def _course(timing: Timing, seed: int) -> tuple[Course | None, float]:
    """When requests are due, and how long that takes. Raises Fault."""
    ways = {
        "--rate": timing.rate,
        "--concurrency": timing.concurrency,
        "--stages": timing.stages,
        "--trace": timing.trace,
    }
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise Fault(f"found {' and '.join(given)}, expected one of them", USAGE)
    if timing.trace is not None:
        return _traced(timing.trace, seed)
    seconds = options.seconds("--duration", timing.duration, 0.1)
    if timing.concurrency is not None:
        return None, seconds
    try:
        kind = Arrivals(timing.arrivals)
    except ValueError:
        kind = Arrivals.TRACE
    if kind is Arrivals.TRACE:
        raise Fault(f"--arrivals: found {timing.arrivals!r}, expected poisson, constant or gamma", USAGE)
    options.positive("--burstiness", timing.burstiness)
    if timing.stages is not None:
        try:
            found = stages.parse(timing.stages)
        except StagesError as error:
            raise Fault(f"--stages: {error}", USAGE) from error
        return Course(kind, found, timing.burstiness), stages.total(found)[0]
    rate = options.positive("--rate", DEFAULT_RATE if timing.rate is None else timing.rate)
    return Course(kind, steady(rate, seconds), timing.burstiness), seconds


def _traced(path: Path, seed: int) -> tuple[Course, float]:
    """Raises Fault."""
    try:
        text = path.read_text()
        schedule = recorded(text, seed, 1, str(path))
    except OSError as error:
        raise Fault(
            f"--trace: {path}: found {error.strerror}, expected an instant a line, in seconds", USAGE
        ) from error
    except UnicodeDecodeError:
        raise Fault(f"{path}: found bytes that are no text, expected an instant a line, in seconds", USAGE) from None
    except ScheduleError as error:
        raise Fault(str(error), USAGE) from error
    return Course(Arrivals.TRACE, trace=text, trace_name=str(path)), max(float(schedule.instants[-1]), 0.1)


def shard_of(text: str | None) -> tuple[int, int]:
    """Of `2/3`. Raises Fault."""
    if text is None:
        return 1, 1
    place, _, of = text.partition("/")
    if not (place.isdecimal() and of.isdecimal() and 1 <= int(place) <= int(of)):
        raise Fault(f"--shard: found {text!r}, expected I/N such as 1/3, with I from 1 to N", USAGE)
    return int(place), int(of)


def instant(text: str | None) -> float | None:
    """Unix seconds. Raises Fault."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Fault(
            f"--start-at: found {text!r}, expected Unix seconds, or an instant with its zone such as 2026-01-31T12:00:00Z",
            USAGE,
        )
    return found.timestamp()
