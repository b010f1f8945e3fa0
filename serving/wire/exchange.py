"""What every protocol does with a request: decode it, have it answered, count it once with its code."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

from ensembles.spec import InputSpec
from serving.aggregator import Aggregator, Answer, Request
from serving.batch import Entry
from serving.catalog import Catalog, Live
from serving.errors import Fault, Internal
from serving.feedback import Feedback, subject
from serving.journey import LONGEST_ID, SERVER_FAULT, Caller, Journey, Operation
from serving.logs import about
from serving.observer import Observer
from serving.receipts import Receipts
from serving.statistics import Statistics
from serving.telemetry import Telemetry
from serving.versions import Versions
from serving.wire.status import status

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"
CANCELLED, CLIENT_CLOSED = "CANCELLED", 499
"""A caller who has left: the gRPC code, and what HTTP servers write into their logs, since nobody reads it."""

ROOM_BYTES = 1 << 16
"""For the frame around the rows: names, parameters, JSON keys."""

IMAGE_BYTES = 16 << 20
"""A picture as a camera writes it; what it may become is limited by the codec."""

TAKES_IMAGES = "/scrutin.v1.EnsembleService/Predict"
TAKES_RECEIPTS = "/scrutin.v1.EnsembleService/Feedback"

JSON_BYTES_PER_CHARACTER = 12
"""Of a label, written as two escapes."""

JSON_BYTES_PER_VALUE = 32
"""More than any number of JSON needs that was printed from a double, with its separators."""


Decode = Callable[[float], Request | Awaitable[Request]]
"""Gives the request that arrived at an instant. One that takes long, as pictures do, is awaited."""


@dataclass(frozen=True)
class Serving:
    """What the protocols need of the server.

    `versions`: who loads and unloads ensembles; None where callers may not ask for it. `receipts`: None where none are given.
    `observer`: who follows single requests.
    """

    catalog: Catalog
    aggregator: Aggregator
    telemetry: Telemetry
    statistics: Statistics
    versions: Versions | None = None
    receipts: Receipts | None = None
    observer: Observer = field(default_factory=Observer)

    def max_bytes(self, path: str) -> int:
        """The most that a gRPC request of this path needs."""
        if path == TAKES_RECEIPTS:
            return self.max_feedback_bytes
        return self.max_image_bytes if path.startswith(TAKES_IMAGES) else self.max_tensor_bytes

    @cached_property
    def feedback(self) -> Feedback:
        """Who takes receipts back."""
        return Feedback(self.receipts, self.telemetry)

    @property
    def max_feedback_bytes(self) -> int:
        """The most that a receipt and its true labels need."""
        return max(map(_feedback_bytes, self.catalog.ensembles.values()), default=0) + ROOM_BYTES

    def measure_again(self) -> None:
        """The ensembles have changed, and with them what requests may need."""
        self.__dict__.pop("max_image_bytes", None)
        self.__dict__.pop("max_tensor_bytes", None)

    @cached_property
    def max_image_bytes(self) -> int:
        """The most that a request needs whose rows may be pictures."""
        pictures = any(live.spec.input.image for live in self.catalog.ensembles.values())
        return max(self.max_tensor_bytes, IMAGE_BYTES + ROOM_BYTES if pictures else 0)

    @cached_property
    def max_tensor_bytes(self) -> int:
        """The most that a request of numbers to any ensemble needs, so that nothing larger is ever held in memory."""
        most = [
            live.spec.limits.max_batch_size * _row_bytes(live.spec.input) for live in self.catalog.ensembles.values()
        ]
        return max(most) + ROOM_BYTES

    async def answer(self, operation: Operation, model_name: str, decode: Decode, caller: Caller | None) -> Answer:
        """Decode a request that arrived just now, answer it, count it. Raises a Fault."""
        exchange = Exchange(self, operation, model_name, caller)
        try:
            decoded = decode(exchange.arrived)
            entry = exchange.submit(decoded if isinstance(decoded, Request) else await decoded)
            await entry.future
            return exchange.collect(entry)
        except asyncio.CancelledError:
            exchange.cancelled()
            raise
        except Exception as error:
            raise exchange.failed(error) from None


class Exchange:
    """One request and what becomes of it, counted once: by `collect`, `failed` or `cancelled`.

    `arrived`: an instant of `time.perf_counter`.
    """

    __slots__ = ("_caller", "_counted", "_journey", "_model_name", "_operation", "_request", "_serving", "arrived")

    def __init__(self, serving: Serving, operation: Operation, model_name: str, caller: Caller | None = None) -> None:
        self.arrived = time.perf_counter()
        self._serving = serving
        self._operation = operation
        self._model_name = model_name
        self._caller = caller
        self._counted = False
        self._request: Request | None = None
        self._journey: Journey | None = None
        if caller is not None or not serving.observer.idle:
            self._journey = serving.observer.follow(operation, caller, self.arrived)

    def submit(self, request: Request) -> Entry:
        """Let the decoded request wait for its batch. Raises a Fault."""
        self._request = request
        if self._journey is not None and self._journey.sampled:
            request.journey = self._journey
        return self._serving.aggregator.submit(request)

    def collect(self, entry: Entry) -> Answer:
        """The answer, once the entry's future is done. Raises a Fault."""
        assert self._request is not None  # noqa: S101  an entry comes of `submit`
        serving, answer = self._serving, self._serving.aggregator.collect(self._request, entry)
        counted, total = answer.counted, answer.total_seconds
        key = self._model_name, answer.live.name, counted.policy, self._operation.protocol
        serving.telemetry.answers.add(key, answer.rows, answer.queue_seconds, counted.compute_seconds, total)
        self._counted = True
        if self._journey is not None:
            _arrive(self._journey, answer)
            self._end(self._journey)
        return answer

    def failed(self, error: Exception) -> Fault:
        """Count the request as failed, unless it broke after it was counted; the fault to tell its caller."""
        bug = None if isinstance(error, Fault) else error
        fault = error if isinstance(error, Fault) else Internal("the request broke; this is a bug")
        if self._counted:
            log.error(
                "%s: an answer broke; this is a bug",
                self._model_name,
                exc_info=error,
                extra=about(request_id=self._id()),
            )
            return fault
        if self._model_name in self._serving.catalog.models:
            self._serving.statistics.failed(self._model_name, time.perf_counter() - self.arrived)
        found = status(fault)
        self._count(found.grpc.name, found.http, str(fault), bug)
        return fault

    def cancelled(self) -> None:
        """Count the request as one whose caller has left."""
        self._count(CANCELLED, CLIENT_CLOSED)

    def _count(self, code: str, http: int, why: str = "", bug: Exception | None = None) -> None:
        """Count a request without an answer. Names that a stranger made up are counted as "", so that they make no series."""
        model = self._serving.catalog.models.get(self._model_name)
        ended = time.perf_counter()
        ensemble, policy = model.live.name if model else "", self._policy()
        self._serving.telemetry.failed(ensemble, policy, self._operation.protocol, code, ended - self.arrived)
        self._counted = True
        journey = self._journey
        if journey is None:
            if http < SERVER_FAULT:
                return
            journey = Journey.of(self._operation, self.arrived, self._caller)
        journey.ended, journey.ensemble, journey.policy = ended, ensemble, policy
        journey.code, journey.status, journey.why = code, http, why
        self._end(journey, bug)

    def _end(self, journey: Journey, bug: Exception | None = None) -> None:
        """Tell what became of a request that is followed."""
        journey.request_id = self._id()
        if journey.sampled:
            self._serving.telemetry.exemplify(journey)
        self._serving.observer.ended(journey, bug)

    def _id(self) -> str:
        """What names the request: its protocol's own id rather than the header's."""
        own = self._request.id if self._request is not None else ""
        if 0 < len(own) <= LONGEST_ID:
            return own
        return self._caller.request_id if self._caller is not None else ""

    def _policy(self) -> str:
        request = self._request
        if request is None:
            return ""
        terms = request.model.live.terms
        asked = request.model.policy or request.policy or terms.default_policy
        return asked if asked in terms.policies else ""


def _arrive(journey: Journey, answer: Answer) -> None:
    """Write down what came of a request; the rest of it only for its spans."""
    counted = answer.counted
    journey.ended = journey.arrived + answer.total_seconds
    journey.ensemble, journey.policy, journey.rows = counted.ensemble, counted.policy, answer.rows
    if not journey.sampled:
        return
    journey.partial, journey.exact, journey.cost_usd = answer.partial, float(answer.exact.mean()), answer.cost_usd
    journey.voted, journey.vote_seconds = counted.voted, counted.vote_seconds
    journey.outcomes = {run.member: run.outcome for run in answer.members}


def sooner(first: float | None, second: float | None) -> float | None:
    """The smaller of two timeouts, None being none."""
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)


def _feedback_bytes(live: Live) -> int:
    """Of the longest receipt and the longest labels, which are JSON."""
    rows, longest = live.spec.limits.max_batch_size, max(map(len, live.spec.labels))
    return subject(live).longest(rows) + rows * (longest * JSON_BYTES_PER_CHARACTER + len('"", '))


def _row_bytes(given: InputSpec) -> int:
    """Of one row in its longest form, which is JSON."""
    return given.row_bytes // given.dtype.itemsize * max(JSON_BYTES_PER_VALUE, given.dtype.itemsize)
