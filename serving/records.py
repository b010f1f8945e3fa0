"""What happened, as plain values: made once by those who did it, handed up to the answer and down to the telemetry."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ensembles.votes import Mask, Result


class Outcome(StrEnum):
    """What became of one member's vote."""

    OK = "ok"
    FAILED = "failed"
    LATE = "late"
    SKIPPED = "skipped"

    __hash__ = str.__hash__  # the enumeration's own is written in Python, and these are keys on the way of every batch


@dataclass(slots=True)
class MemberRun:
    """One member's part in a batch. `seconds`: how long its run took; `device_seconds`: its share of the device's time.

    `rows`: those that it ran, fewer than the batch's where others had left before.
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


@dataclass(eq=False, slots=True)
class Counted:
    """One batch whose votes were counted. Times in seconds, money in USD, for all of its rows together.

    `exact` [n]: the label is provably that of the full ensemble. `ran` [n, M]: which rows each member ran; None where every
    member that ran did so on all of them. `below_quorum` [n]: rows that too few members voted on, while others of the batch had
    left before; None where there are none.
    """

    ensemble: str
    policy: str
    rows: int
    result: Result
    runs: Sequence[MemberRun]
    exact: Mask
    ran: Mask | None
    compute_seconds: float
    vote_seconds: float
    below_quorum: Mask | None = None

    def part(self, start: int, stop: int) -> list[MemberRun]:
        """What the members did for these rows: time and money are the rows' share of those that each member ran."""
        return [self._part(index, run, start, stop) for index, run in enumerate(self.runs)]

    def _part(self, index: int, run: MemberRun, start: int, stop: int) -> MemberRun:
        rows = stop - start if self.ran is None else int(self.ran[start:stop, index].sum())
        if not rows or run.outcome is Outcome.SKIPPED:
            return MemberRun(run.member, Outcome.SKIPPED, run.device)
        share = rows / run.rows
        return MemberRun(
            run.member, run.outcome, run.device, rows, run.seconds, run.device_seconds * share, run.cost_usd * share
        )
