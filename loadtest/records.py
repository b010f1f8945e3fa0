"""What a run measured: counts, sums and histograms only, so that the records of n processes or machines add up to one. Pure.

The way of one request, all instants in seconds since the run's start:

    arm.sent(planned, sent)                                   when it left
    arm.answered(planned, sent, done, rows)                   or
    arm.failed(planned, done, "RESOURCE_EXHAUSTED")           or
    arm.unfinished(planned, end)                              at the end of the run: nothing is dropped

and, of an answer, `arm.charge(done, rows, device_seconds, cost_usd)` and `arm.answers.note(data_row, class_index)` for each of its rows.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram

Json = dict[str, Any]

FULL = "full"
MEMBER = "member:"
"""How a policy that is one member alone begins."""

ABSTAINED = -1
"""The class index of an answer that names no class."""


@dataclass(slots=True)
class Spending:
    """What answers said that they cost, added up."""

    rows: int = 0
    """Of the answers that told a cost."""
    device_seconds: float = 0.0
    cost_usd: float = 0.0

    def add(self, rows: int, device_seconds: float, cost_usd: float) -> None:
        self.rows += rows
        self.device_seconds += device_seconds
        self.cost_usd += cost_usd

    def merge(self, other: "Spending") -> None:
        self.add(other.rows, other.device_seconds, other.cost_usd)


@dataclass(slots=True)
class Slot:
    """One slot of the time line.

    `due` and `latency` are of the requests planned for it; `sent`, `done` (answered), `errors` and `spending` happened in it.
    """

    due: int = 0
    sent: int = 0
    done: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=lambda: Histogram(2))
    spending: Spending = field(default_factory=Spending)

    def merge(self, other: "Slot") -> None:
        self.due += other.due
        self.sent += other.sent
        self.done += other.done
        self.errors += other.errors
        self.latency.merge(other.latency)
        self.spending.merge(other.spending)


@dataclass(slots=True)
class Answers:
    """Which classes were answered to each row of the data, and how often: `counts[row, class index]`; -1 is an abstention."""

    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def note(self, row: int, class_index: int) -> None:
        self.counts[row, class_index] += 1

    def merge(self, other: "Answers") -> None:
        for key, count in other.counts.items():
            self.counts[key] += count

    def by_row(self) -> dict[int, dict[int, int]]:
        """Row to class to count, in order of rows."""
        found: dict[int, dict[int, int]] = {}
        for (row, label), count in sorted(self.counts.items()):
            found.setdefault(row, {})[label] = count
        return found

    def shares_right(self, truth: Mapping[int, int]) -> dict[int, float]:
        """How often the answer to each row was its true class: 0 or 1, or between where answers differed. Rows with a truth only."""
        return {
            row: labels.get(truth[row], 0) / sum(labels.values())
            for row, labels in self.by_row().items()
            if row in truth
        }

    def usual(self) -> dict[int, int]:
        """The class answered to each row most often, the lower of equals."""
        return {row: min(labels, key=lambda label: (-labels[label], label)) for row, labels in self.by_row().items()}


@dataclass(slots=True)
class ArmRecord:
    """What was measured of one policy. Requests of a warm-up are no part of it.

    `requests`: all that were due. Each ends as one of answered (in `latency`), failed (in `failures`) or unfinished (in `censored`).
    `latency`: planned instant to answer; `service`: sending to answer; `lateness`: planned instant to sending.
    `failures`: planned instant to error, by code. `censored`: the age of those that had no answer when the run ended.
    `rows`: of answers. `partial` and `degraded`: answers, in requests.
    """

    policy: str
    slot_seconds: float = 1.0
    requests: int = 0
    rows: int = 0
    partial: int = 0
    degraded: int = 0
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    failures: dict[str, Histogram] = field(default_factory=dict)
    censored: Histogram = field(default_factory=Histogram)
    spending: Spending = field(default_factory=Spending)
    answers: Answers = field(default_factory=Answers)
    timeline: list[Slot] = field(default_factory=list)
    first_sent: float = float("inf")
    last_done: float = 0.0

    @property
    def errors(self) -> dict[str, int]:
        """How many by code."""
        return {code: failures.count for code, failures in sorted(self.failures.items())}

    @property
    def delays(self) -> Histogram:
        """Of all requests that did not fail: the latency of answers, and the age of those that had none."""
        found = Histogram(self.latency.digits)
        found.merge(self.latency)
        found.merge(self.censored)
        return found

    def sent(self, planned: float, sent: float) -> None:
        self.requests += 1
        self.lateness.record(sent - planned)
        self.slot(planned).due += 1
        self.slot(sent).sent += 1
        self.first_sent = min(self.first_sent, sent)

    def answered(self, planned: float, sent: float, done: float, rows: int) -> None:
        self.rows += rows
        self.latency.record(done - planned)
        self.service.record(done - sent)
        self.slot(planned).latency.record(done - planned)
        self.slot(done).done += 1
        self.last_done = max(self.last_done, done)

    def failed(self, planned: float, done: float, code: str) -> None:
        """`code`: the gRPC status' name, or the HTTP status ("429"), or what the connection met ("UNAVAILABLE")."""
        self.failures.setdefault(code, Histogram()).record(done - planned)
        self.slot(done).errors += 1
        self.last_done = max(self.last_done, done)

    def unfinished(self, planned: float, end: float) -> None:
        """Neither answered nor failed when the run ended; its latency is at least its age."""
        self.censored.record(end - planned)
        self.slot(planned).latency.record(end - planned)

    def unsent(self, planned: float, end: float) -> None:
        """Due, and never sent, as the generator did not come to it before the run ended."""
        self.requests += 1
        self.slot(planned).due += 1
        self.unfinished(planned, end)

    def charge(self, done: float, rows: int, device_seconds: float, cost_usd: float) -> None:
        """What one answer of so many rows said that it cost; nothing where the target tells no costs."""
        self.spending.add(rows, device_seconds, cost_usd)
        self.slot(done).spending.add(rows, device_seconds, cost_usd)

    def slot(self, instant: float) -> Slot:
        """The time line's slot of an instant, made if need be."""
        return self._slot_at(max(int(instant / self.slot_seconds), 0))

    def _slot_at(self, place: int) -> Slot:
        while len(self.timeline) <= place:
            self.timeline.append(Slot())
        return self.timeline[place]

    def merge(self, other: "ArmRecord") -> None:
        """Add what another process or machine measured of the same policy. Raises ValueError for another policy or slot."""
        if (other.policy, other.slot_seconds) != (self.policy, self.slot_seconds):
            raise ValueError(
                f"found policy {other.policy} in slots of {other.slot_seconds:g} s, "
                f"expected {self.policy} in slots of {self.slot_seconds:g} s"
            )
        for name in ("requests", "rows", "partial", "degraded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("latency", "service", "lateness", "censored", "spending", "answers"):
            getattr(self, name).merge(getattr(other, name))
        for code, failures in other.failures.items():
            self.failures.setdefault(code, Histogram()).merge(failures)
        for place, slot in enumerate(other.timeline):
            self._slot_at(place).merge(slot)
        self.first_sent = min(self.first_sent, other.first_sent)
        self.last_done = max(self.last_done, other.last_done)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was to be done. `rate` is in requests/s over all policies; None in a closed loop, which has a `concurrency` instead."""

    arrivals: str
    """`constant`, `poisson`, `gamma`, `trace`, or `closed` for a closed loop."""
    rate: float | None
    concurrency: int | None
    duration: float
    """Seconds, without the warm-up."""
    rows_per_request: int = 1
    requests: int = 0
    """Planned, over all policies (of this shard); 0 in a closed loop."""
    warm_up: float = 0.0
    """Seconds before the first counted request."""
    deadline: float | None = None
    """Seconds a request may take; None: the target's own limit."""
    connections: int = 1
    workers: int = 1
    stages: str = ""
    """Ramps as they were written, e.g. `0-100:30s,100:60s`."""


@dataclass(slots=True)
class Generator:
    """How the load generator itself fared; of several processes and machines: sums."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    """Of each process, added up: `cpu_seconds / wall_seconds` is the share of its core that it used."""
    busiest: float = 0.0
    """The largest such share of any one process."""
    machines: list[str] = field(default_factory=list)

    def merge(self, other: "Generator") -> None:
        self.cpu_seconds += other.cpu_seconds
        self.wall_seconds += other.wall_seconds
        self.busiest = max(self.busiest, other.busiest)
        self.machines = sorted({*self.machines, *other.machines})


@dataclass(slots=True)
class RunRecord:
    """One run, or one shard of it, or all shards merged."""

    target: str
    """The URL as given."""
    seed: int
    schedule_sha256: str
    """Of the whole schedule, not of the shard's part: shards of one run have the same."""
    plan: Plan
    arms: list[ArmRecord]
    started_at: float = 0.0
    """Unix time of instant 0, in seconds."""
    ended_at: float = 0.0
    """Unix time of the last outcome."""
    generator: Generator = field(default_factory=Generator)
    labels: list[str] = field(default_factory=list)
    """The classes' names in order; empty where the target tells none."""
    truth: dict[int, int] = field(default_factory=dict)
    """Row of the data to its true class index; empty without labels."""
    data: str = ""
    """Name and digest of the data that was sent."""
    slos: list[str] = field(default_factory=list)
    shards: list[int] = field(default_factory=lambda: [1])
    """Which of `of_shards` (from 1) this is; all of them once merged."""
    of_shards: int = 1
    stopped: str = ""
    """Why the run ended before its plan, e.g. `interrupted after 3.2 s` or `the target went away`; else empty."""
    messages: dict[str, str] = field(default_factory=dict)
    """Of each code of errors, what the target said first."""
    server: Json = field(default_factory=dict)
    """The server's own metrics of the span, if asked for: a name and labels (as in /metrics) to its value or increase."""
    ensemble: Json = field(default_factory=dict)
    """What the target told of itself: `name`, `version`, `digest`."""

    @property
    def seconds(self) -> float:
        """From instant 0 to the last outcome."""
        return max(self.ended_at - self.started_at, 0.0)

    def arm(self, policy: str) -> ArmRecord:
        """Raises KeyError for a policy that took no part."""
        found = next((arm for arm in self.arms if arm.policy == policy), None)
        if found is None:
            raise KeyError(policy)
        return found
