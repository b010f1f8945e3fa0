"""What a worker process is told to do, and what it tells. Plain values, that travel from process to process."""

from dataclasses import dataclass, field
from pathlib import Path

from loadtest import schedule
from loadtest.histogram import Histogram
from loadtest.records import ArmRecord
from loadtest.schedule import Arrivals, Schedule
from loadtest.stages import Stage
from loadtest.targets.address import Address
from loadtest.targets.answers import Description
from loadtest.targets.opening import TargetOptions


@dataclass(frozen=True, slots=True)
class Course:
    """When requests are due: `stages` of a kind of arrivals, or the text of a trace."""

    kind: Arrivals
    stages: tuple[Stage, ...] = ()
    burstiness: float = schedule.BURSTINESS
    trace: str = ""
    trace_name: str = ""

    def schedule(self, seed: int, arms: int) -> Schedule:
        """Raises ScheduleError."""
        if self.kind is Arrivals.TRACE:
            return schedule.recorded(self.trace, seed, arms, self.trace_name)
        return schedule.planned(self.kind, self.stages, seed, arms, self.burstiness)


@dataclass(frozen=True, slots=True)
class Job:
    """All that one worker needs. `course`: None for a closed loop, which has a `concurrency`, the worker's own, instead."""

    address: Address
    options: TargetOptions
    description: Description
    policies: tuple[str, ...]
    """As the server is asked for them; `names` as the records call them."""
    names: tuple[str, ...]
    data: Path | None
    seed: int
    duration: float
    """Seconds, without the warm-up."""
    course: Course | None
    concurrency: int = 0
    warm_up: float = 0.0
    drain: float = 10.0
    """Seconds that what is under way at the end may still take."""
    give_up: float = 5.0
    """Seconds without any connection after which the target is gone."""
    slot_seconds: float = 1.0
    part: tuple[int, int] = (1, 1)
    """Which part of how many of the whole schedule is this worker's."""

    def schedule(self) -> Schedule:
        """This worker's part."""
        if self.course is None:
            raise ValueError("a closed loop has no schedule: a bug")
        return self.course.schedule(self.seed, len(self.policies)).part(*self.part)


@dataclass(slots=True)
class Beat:
    """What happened to one policy since the worker's last word."""

    sent: int = 0
    done: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=lambda: Histogram(2))

    def merge(self, other: "Beat") -> None:
        self.sent += other.sent
        self.done += other.done
        self.errors += other.errors
        self.latency.merge(other.latency)


@dataclass(slots=True)
class Outcome:
    """What one worker measured. `ended`: when the last outcome was, in seconds since the start."""

    arms: list[ArmRecord]
    cpu_seconds: float
    wall_seconds: float
    ended: float
    stopped: str = ""
    warm_up_errors: int = 0
    messages: dict[str, str] = field(default_factory=dict)
    """Of each code of errors, the first that was said."""
