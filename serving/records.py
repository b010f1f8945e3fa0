"""What happened, as plain values: made once by those who did it, handed up to the answer and down to the telemetry."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import Ints, Mask, Result


class Outcome(StrEnum):
    """What became of one member's vote."""

    OK = "ok"
    FAILED = "failed"
    LATE = "late"
    SKIPPED = "skipped"

    __hash__ = str.__hash__  # the enumeration's own is written in Python, and these are keys on the way of every batch


OUTCOMES = (Outcome.SKIPPED, Outcome.OK, Outcome.FAILED, Outcome.LATE)
"""By the codes that a table of them holds; of several rows, the highest is what is told."""

SKIPPED, OK, FAILED, LATE = range(4)
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}


class Hold(Protocol):
    """From when to when a device worked on a run: instants of `time.perf_counter`, 0 for what has not happened."""

    started: float
    ended: float


@dataclass(slots=True)
class MemberRun:
    """One member's part in some rows. `seconds`: how long its run took; `device_seconds`: its share of the device's time.

    `rows`: those that it ran, fewer than there are where others had left before.
    `charged_seconds`: how much of that share was counted while the run was under way. `hold`: of a run, once it has its turn.
    """

    member: str
    outcome: Outcome
    device: str
    rows: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    cost_usd: float = 0.0
    charged_seconds: float = 0.0
    fault: str | None = None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Crew:
    """The members of an ensemble in their order: names, what they run on, and the price of a second of that in USD."""

    names: tuple[str, ...]
    devices: tuple[str, ...]
    usd_per_second: tuple[float, ...]


class Spent:
    """What every member did for each of n rows, and the time that took.

    `outcome`: places in OUTCOMES. `seconds`: how long the run took that the row was part of; `device_seconds`: the row's share of
    the device's time. Each [M] while all rows fare alike, as most batches do to the end; [n, M] from then on.
    """

    __slots__ = ("alike", "device_seconds", "outcome", "rows", "seconds")

    def __init__(self, rows: int, outcome: Any, seconds: Any, device_seconds: Any, alike: bool) -> None:
        self.rows = rows
        self.outcome = outcome
        self.seconds = seconds
        self.device_seconds = device_seconds
        self.alike = alike

    @classmethod
    def nothing(cls, rows: int, members: int) -> "Spent":
        """Before any member has run."""
        return cls(rows, [SKIPPED] * members, [0.0] * members, [0.0] * members, alike=True)

    @classmethod
    def join(cls, parts: "Sequence[Spent]") -> "Spent":
        """That of all their rows."""
        for part in parts:
            part.spread()
        return cls(
            sum(part.rows for part in parts),
            np.concatenate([part.outcome for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.device_seconds for part in parts]),
            alike=False,
        )

    def take(self, rows: Ints) -> "Spent":
        """That of these rows alone."""
        if self.alike:
            return Spent(len(rows), self.outcome[:], self.seconds[:], self.device_seconds[:], alike=True)
        return Spent(len(rows), self.outcome[rows], self.seconds[rows], self.device_seconds[rows], alike=False)

    def spread(self) -> None:
        """Keep it row by row from now on."""
        if self.alike:
            self.alike = False
            self.outcome = np.tile(np.array(self.outcome, np.uint8), (self.rows, 1))
            self.seconds = np.tile(np.array(self.seconds), (self.rows, 1))
            self.device_seconds = np.tile(np.array(self.device_seconds), (self.rows, 1))

    def spend(self, rows: Ints | None, member: int, seconds: float, share: float) -> None:
        """A member ran these rows, None for all. `share`: device seconds of each."""
        where = self._where(rows, member)
        self.seconds[where] = seconds
        self.device_seconds[where] = share

    def end(self, rows: Ints | None, member: int, outcome: int) -> None:
        """What became of its votes on these rows, None for all."""
        where = self._where(rows, member)  # first, since it may put another table in the place of this one
        self.outcome[where] = outcome

    def _where(self, rows: Ints | None, member: int) -> Any:
        if rows is None and self.alike:
            return member
        self.spread()
        return (slice(None) if rows is None else rows), member

    def counts(self) -> list[list[int]]:
        """For each member, how many rows ended with each of OUTCOMES."""
        if self.alike:
            return [[self.rows if code == found else 0 for code in range(4)] for found in self.outcome]
        counts: list[list[int]] = [np.count_nonzero(self.outcome == code, axis=0).tolist() for code in range(4)]
        return [list(member) for member in zip(*counts, strict=True)]

    def fared(self, row: int) -> bytes:
        """How a row fared, in a form that is the same for all that fared alike."""
        fared: bytes = self.outcome[row].tobytes() + self.seconds[row].tobytes() + self.device_seconds[row].tobytes()
        return fared

    def outcomes(self, row: int) -> Sequence[int]:
        """What became of each member's vote on a row, as places in OUTCOMES, [M]."""
        found: Sequence[int] = self.outcome if self.alike else self.outcome[row].tolist()
        return found

    @property
    def all_device_seconds(self) -> float:
        """Of all members and rows."""
        return self.rows * sum(self.device_seconds) if self.alike else float(self.device_seconds.sum())

    def missing(self) -> Ints:
        """How many members should have voted on each row and did not, [n]; [1] where all rows fared alike."""
        missing: Ints = np.count_nonzero(np.atleast_2d(self.outcome) >= FAILED, axis=1)
        return missing

    def told(self, start: int, stop: int) -> Sequence[int]:
        """By member, what is told of its votes on these rows together, as places in OUTCOMES."""
        told: Sequence[int] = self.outcome if self.alike else self.outcome[start:stop].max(axis=0).tolist()
        return told

    def ran(self, start: int, stop: int) -> list[int]:
        """By member, how many of these rows it ran."""
        if self.alike:
            return [stop - start if outcome else 0 for outcome in self.outcome]
        ran: list[int] = np.count_nonzero(self.outcome[start:stop], axis=0).tolist()
        return ran

    def time(self, start: int, stop: int) -> Sequence[float]:
        """By member, how many seconds the longest of its runs took that one of these rows was part of."""
        seconds: Sequence[float] = self.seconds if self.alike else self.seconds[start:stop].max(axis=0).tolist()
        return seconds

    def device_time(self, start: int, stop: int) -> Sequence[float]:
        """By member, the share of these rows in the device's time, in seconds."""
        if self.alike:
            return [(stop - start) * share for share in self.device_seconds]
        shares: Sequence[float] = self.device_seconds[start:stop].sum(axis=0).tolist()
        return shares


@dataclass(eq=False, slots=True)
class Counted:
    """Rows whose votes were counted together. Times in seconds, for all of them together; `voted`: the instant when the count began.

    `exact` [n]: the label is provably that of the full ensemble. `scores` [n, M, K]: the votes themselves, where they are `present`.
    `faults`: why members gave no vote, by their index.
    """

    ensemble: str
    policy: str
    rows: int
    result: Result
    exact: Mask
    spent: Spent
    crew: Crew
    scores: NDArray[np.float32]
    compute_seconds: float
    vote_seconds: float
    faults: dict[int, str] = field(default_factory=dict)
    voted: float = 0.0

    @property
    def present(self) -> Mask:
        """Whose votes are there, [n, M]."""
        return self.result.votes >= 0

    @property
    def runs(self) -> list[MemberRun]:
        """What the members did for all of the rows."""
        return self.part(0, self.rows)

    def part(self, start: int, stop: int) -> list[MemberRun]:
        """What the members did for these rows: time and money are the rows' share of those that each member ran."""
        crew, faults, spent = self.crew, self.faults, self.spent
        table = zip(
            *(by_member(start, stop) for by_member in (spent.told, spent.ran, spent.time, spent.device_time)),
            strict=True,
        )
        return [
            MemberRun(
                crew.names[index],
                OUTCOMES[outcome],
                crew.devices[index],
                rows,
                seconds,
                device_seconds,
                device_seconds * crew.usd_per_second[index],
                fault=faults.get(index) if outcome == FAILED else None,
            )
            for index, (outcome, rows, seconds, device_seconds) in enumerate(table)
        ]
