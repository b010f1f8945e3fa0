"""What happened, as plain values: made once by those who did it, handed up to the answer and down to the telemetry."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import Floats, Ints, Mask, Result


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


@dataclass(slots=True)
class MemberRun:
    """One member's part in some rows. `seconds`: how long its run took; `device_seconds`: its share of the device's time.

    `rows`: those that it ran, fewer than there are where others had left before.
    `charged_seconds`: how much of that share was counted while the run was under way.
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


@dataclass(frozen=True, slots=True)
class Crew:
    """The members of an ensemble in their order: names, what they run on, and the price of a second of that in USD."""

    names: tuple[str, ...]
    devices: tuple[str, ...]
    usd_per_second: tuple[float, ...]


class Spent:
    """What every member did for each of n rows, and the time that took.

    `outcome` [n, M]: places in OUTCOMES. `seconds` [n, M]: how long the run took that the row was part of; `device_seconds`
    [n, M]: the row's share of the device's time. `alike`: all rows fared alike so far.
    """

    __slots__ = ("alike", "device_seconds", "outcome", "seconds")

    def __init__(self, outcome: NDArray[np.uint8], seconds: Floats, device_seconds: Floats, alike: bool) -> None:
        self.outcome = outcome
        self.seconds = seconds
        self.device_seconds = device_seconds
        self.alike = alike

    @classmethod
    def nothing(cls, rows: int, members: int) -> "Spent":
        """Before any member has run."""
        return cls(
            np.zeros((rows, members), np.uint8), np.zeros((rows, members)), np.zeros((rows, members)), alike=True
        )

    @classmethod
    def join(cls, parts: "Sequence[Spent]") -> "Spent":
        """That of all their rows."""
        return cls(
            np.concatenate([part.outcome for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            np.concatenate([part.device_seconds for part in parts]),
            alike=False,
        )

    def take(self, rows: Ints) -> "Spent":
        """That of these rows alone."""
        return Spent(self.outcome[rows], self.seconds[rows], self.device_seconds[rows], self.alike)

    def spend(self, rows: Ints | None, member: int, seconds: float, share: float) -> None:
        """A member ran these rows, None for all. `share`: device seconds of each."""
        where: Any = slice(None) if rows is None else rows
        self.alike &= rows is None
        self.seconds[where, member] = seconds
        self.device_seconds[where, member] = share

    def end(self, rows: Ints | None, member: int, outcome: int) -> None:
        """What became of its votes on these rows, None for all."""
        self.alike &= rows is None
        self.outcome[slice(None) if rows is None else rows, member] = outcome

    def counts(self) -> list[list[int]]:
        """For each member, how many rows ended with each of OUTCOMES."""
        if self.alike:
            rows = len(self.outcome)
            return [[rows if code == found else 0 for code in range(4)] for found in self.outcome[0].tolist()]
        counts: list[list[int]] = [np.count_nonzero(self.outcome == code, axis=0).tolist() for code in range(4)]
        return [list(member) for member in zip(*counts, strict=True)]

    def missing(self) -> Ints:
        """How many members should have voted on each row and did not, [n]; [1] where all rows fared alike."""
        outcome = self.outcome[:1] if self.alike else self.outcome
        missing: Ints = np.count_nonzero(outcome >= FAILED, axis=1)
        return missing


@dataclass(eq=False, slots=True)
class Counted:
    """Rows whose votes were counted together. Times in seconds, for all of them together.

    `exact` [n]: the label is provably that of the full ensemble. `scores` [n, M, K] and `present` [n, M]: the votes themselves.
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
    present: Mask
    compute_seconds: float
    vote_seconds: float
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def runs(self) -> list[MemberRun]:
        """What the members did for all of the rows."""
        return self.part(0, self.rows)

    def part(self, start: int, stop: int) -> list[MemberRun]:
        """What the members did for these rows: time and money are the rows' share of those that each member ran."""
        spent, crew = self.spent, self.crew
        if spent.alike:
            number = stop - start
            outcomes = spent.outcome[0].tolist()
            rows = [number if outcome else 0 for outcome in outcomes]
            seconds = spent.seconds[0].tolist()
            device_seconds = [number * share for share in spent.device_seconds[0].tolist()]
        else:
            codes = spent.outcome[start:stop]
            outcomes = codes.max(axis=0).tolist()
            rows = np.count_nonzero(codes, axis=0).tolist()
            seconds = spent.seconds[start:stop].max(axis=0).tolist()
            device_seconds = spent.device_seconds[start:stop].sum(axis=0).tolist()
        return [
            MemberRun(
                crew.names[index],
                OUTCOMES[outcomes[index]],
                crew.devices[index],
                rows[index],
                seconds[index],
                device_seconds[index],
                device_seconds[index] * crew.usd_per_second[index],
                fault=self.faults.get(index),
            )
            for index in range(len(outcomes))
        ]
