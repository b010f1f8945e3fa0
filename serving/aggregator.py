"""The way of one request: admit it, let it wait for its batch, hand back its part of the count.

What happens in between stands in `batcher.py`; what a vote is, in `ensembles/votes.py`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Rows
from serving.admission import admit, unknown_policy
from serving.batch import Entry
from serving.catalog import Live, Model
from serving.errors import InvalidRequest, Overloaded, TooLate
from serving.journey import Journey
from serving.records import FAILED, Counted, MemberRun
from serving.telemetry import Telemetry


@dataclass(slots=True)
class Request:
    """One request, decoded. `arrived`: an instant of `time.perf_counter`; `timeout`: seconds from then, None for no own one.

    `policy` "" is the model's own: a member's, or the ensemble's default. `id`: what its caller calls it. `journey`: if it is followed.
    """

    model: Model
    rows: Rows
    arrived: float
    policy: str = ""
    timeout: float | None = None
    id: str = ""
    journey: Journey | None = None


@dataclass(slots=True)
class Answer:
    """Rows `start` to `stop` of a counted batch. Times in seconds; money and device time are this request's share by rows.

    `asked`: the policy that the request named, or the one that it has by default; `brownout_level`: how many steps below it the
    one that ran stands, 0 for none.
    """

    live: Live
    counted: Counted
    start: int
    stop: int
    queue_seconds: float
    total_seconds: float
    asked: str = ""
    brownout_level: int = 0

    @property
    def certificate(self) -> str:
        """Of the policy that ran: "valid", "stale", "violated", or "" where it has none."""
        return self.live.certificate(self.counted.policy)

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def alike(self) -> tuple[str | int | bytes, ...]:
        """Requests of a batch with the same value here are told the same: all with as many rows, unless rows fared differently."""
        told, spent = (self.asked, self.brownout_level), self.counted.spent
        if spent.alike:
            return (*told, self.rows)
        return (*told, spent.fared(self.start)) if self.rows == 1 else (*told, self.start, self.stop)

    @property
    def members(self) -> list[MemberRun]:
        """What each member did for these rows."""
        return self.counted.part(self.start, self.stop)

    @property
    def outcomes(self) -> Sequence[int]:
        """What became of each member's vote on these rows, as places in `records.OUTCOMES`."""
        return self.counted.spent.told(self.start, self.stop)

    @property
    def partial(self) -> bool:
        """Whether a member that should have voted did not."""
        return max(self.outcomes) >= FAILED

    @property
    def spent(self) -> tuple[float, float]:
        """Device seconds, and what they cost in USD."""
        seconds = self.counted.spent.device_time(self.start, self.stop)
        return sum(seconds), sum(map(mul, seconds, self.counted.crew.usd_per_second))

    @property
    def device_seconds(self) -> float:
        return self.spent[0]

    @property
    def cost_usd(self) -> float:
        return self.spent[1]

    @property
    def label_index(self) -> NDArray[np.int64]:
        return self.counted.result.label_index[self.start : self.stop]

    @property
    def labels(self) -> list[str]:
        """[n]; "" is an abstention."""
        labels: list[str] = self.live.label_names[self.label_index].tolist()
        return labels

    @property
    def probabilities(self) -> NDArray[np.float32]:
        return self.counted.result.probabilities[self.start : self.stop]

    @property
    def agreement(self) -> NDArray[np.float32]:
        return self.counted.result.agreement[self.start : self.stop]

    @property
    def margin(self) -> NDArray[np.float32]:
        return self.counted.result.margin[self.start : self.stop]

    @property
    def exact(self) -> NDArray[np.bool_]:
        return self.counted.exact[self.start : self.stop]

    @property
    def votes(self) -> NDArray[np.int64]:
        return self.counted.result.votes[self.start : self.stop]


class Aggregator:
    """Answers requests: `submit` lets one in, its entry's future tells when the batch was counted, `collect` hands out its part."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def policy(self, request: Request) -> str:
        """The policy that the request is run with. Raises InvalidRequest when it asks a member for another one."""
        own = request.model.policy
        if own and request.policy not in ("", own):
            raise InvalidRequest(f"unknown policy {request.policy[:64]!r} of {request.model.name}, expected none")
        return own or request.policy or request.model.live.terms.default_policy

    def submit(self, request: Request) -> Entry:
        """Admit the request and let it wait for its batch. Raises a Fault. Cancelling the entry's future takes it out again."""
        live, terms = request.model.live, request.model.live.terms
        asked = self.policy(request)
        timeout = terms.timeout_seconds
        if request.timeout is not None:
            timeout = min(timeout, request.timeout)
        deadline = request.arrived + timeout
        batcher = live.serving()
        if asked not in terms.policies:
            raise unknown_policy(terms, asked)
        now, wait = time.perf_counter(), batcher.queue.rows * batcher.pace.seconds_per_row
        policy, level = batcher.ladder.step(asked, wait, now) if batcher.ladder else (asked, 0)
        try:
            admit(terms, batcher.queue, request.rows, deadline - now, wait, batcher.pace.run_seconds)
        except Overloaded as full:
            self._telemetry.shed(live.name, "too_late" if isinstance(full, TooLate) else "queue_full")
            raise
        if request.journey is not None:
            request.journey.admitted = now
        entry = Entry(request.rows, policy, request.arrived, deadline, asked, level, request.journey)
        batcher.submit(entry)
        return entry

    def collect(self, request: Request, entry: Entry) -> Answer:
        """What came of it. Raises a Fault."""
        counted, start = entry.future.result()
        queued, total = entry.started - request.arrived, time.perf_counter() - request.arrived
        stop = start + len(request.rows)
        return Answer(request.model.live, counted, start, stop, queued, total, entry.asked, entry.level)
