"""What happened, as frozen values: made once by those who did it, handed up to the answer and down to the telemetry."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ensembles.votes import Result


class Outcome(StrEnum):
    """What became of one member's vote."""

    OK = "ok"
    FAILED = "failed"
    LATE = "late"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class MemberRun:
    """One member's part in a batch. `seconds`: how long its run took; `device_seconds`: its share of the device's time.

    `charged_seconds`: how much of that share was counted while the run was under way.
    """

    member: str
    outcome: Outcome
    device: str
    seconds: float = 0.0
    device_seconds: float = 0.0
    cost_usd: float = 0.0
    charged_seconds: float = 0.0
    fault: str | None = None


@dataclass(frozen=True, eq=False)
class Counted:
    """One batch whose votes were counted. Times in seconds, money in USD, for all of its rows together."""

    ensemble: str
    policy: str
    rows: int
    result: Result
    runs: tuple[MemberRun, ...]
    exact: bool
    compute_seconds: float
    vote_seconds: float

    @cached_property
    def device_seconds(self) -> float:
        return sum(run.device_seconds for run in self.runs)

    @cached_property
    def cost_usd(self) -> float:
        return sum(run.cost_usd for run in self.runs)

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Of each member."""
        return tuple([run.outcome for run in self.runs])

    @cached_property
    def partial(self) -> bool:
        """Whether a member that should have voted did not."""
        return any(run.outcome in (Outcome.FAILED, Outcome.LATE) for run in self.runs)

    def members(self, outcome: Outcome) -> list[str]:
        """The members with this outcome."""
        return [run.member for run in self.runs if run.outcome is outcome]
