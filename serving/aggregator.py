"""The way of one request: admit it, let it wait for its batch, hand back its part of the count.

What happens in between stands in `batcher.py`; what a vote is, in `ensembles/votes.py`.
"""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Rows
from serving.admission import admit
from serving.batcher import Entry
from serving.catalog import Live, Model
from serving.errors import DeadlinePassed, InvalidRequest, QueueFull
from serving.records import Counted
from serving.telemetry import Telemetry


@dataclass(slots=True)
class Request:
    """One request, decoded. `arrived`: an instant of `time.perf_counter`; `timeout`: seconds from then, None for no own one.

    `policy` "" is the model's own: a member's, or the ensemble's default.
    """

    model: Model
    rows: Rows
    arrived: float
    policy: str = ""
    timeout: float | None = None


@dataclass(slots=True)
class Answer:
    """Rows `start` to `stop` of a counted batch. Times in seconds; money and device time are this request's share by rows."""

    live: Live
    counted: Counted
    start: int
    stop: int
    queue_seconds: float
    total_seconds: float

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def share(self) -> float:
        """Of the batch, by rows."""
        return self.rows / self.counted.rows

    @property
    def device_seconds(self) -> float:
        return self.counted.device_seconds * self.share

    @property
    def cost_usd(self) -> float:
        return self.counted.cost_usd * self.share

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
    def votes(self) -> NDArray[np.int64]:
        return self.counted.result.votes[self.start : self.stop]


class Aggregator:
    """Answers requests."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def policy(self, request: Request) -> str:
        """The policy that the request is run with. Raises InvalidRequest when it asks a member for another one."""
        own = request.model.policy
        if own and request.policy not in ("", own):
            raise InvalidRequest(f"unknown policy {request.policy[:64]!r} of {request.model.name}, expected none")
        return own or request.policy or request.model.live.spec.policies.default

    async def answer(self, request: Request) -> Answer:
        """Raises a Fault. Cancelling the call takes the request out of the queue."""
        live = request.model.live
        policy = self.policy(request)
        timeout = live.spec.limits.timeout_ms / 1000
        if request.timeout is not None:
            timeout = min(timeout, request.timeout)
        remaining = request.arrived + timeout - time.perf_counter()
        batcher = live.serving()
        try:
            admit(live.spec, batcher.queue, request.rows, policy, remaining)
        except QueueFull:
            self._telemetry.shed(live.name, "queue_full")
            raise
        entry = Entry(request.rows, policy, request.arrived, request.arrived + timeout)
        live.in_flight += 1
        timer = asyncio.get_running_loop().call_later(remaining, _expire, entry)
        try:
            batcher.submit(entry)
            counted, start = await entry.future
        finally:
            timer.cancel()
            live.in_flight -= 1
        queued, total = entry.started - request.arrived, time.perf_counter() - request.arrived
        return Answer(live, counted, start, start + len(request.rows), queued, total)


def _expire(entry: Entry) -> None:
    entry.refuse(DeadlinePassed("the deadline passed before the members had answered"))
