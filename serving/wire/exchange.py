"""What every protocol does with a request: decode it, have it answered, count it once with its code."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from ensembles.spec import InputSpec
from serving.aggregator import Aggregator, Answer, Request
from serving.batch import Entry
from serving.catalog import Catalog, Live
from serving.errors import Fault, Internal
from serving.feedback import Feedback, subject
from serving.receipts import Receipts
from serving.statistics import Statistics
from serving.telemetry import Telemetry
from serving.versions import Versions
from serving.wire.status import status

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"

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
    """

    catalog: Catalog
    aggregator: Aggregator
    telemetry: Telemetry
    statistics: Statistics
    versions: Versions | None = None
    receipts: Receipts | None = None

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

    async def answer(self, protocol: str, model_name: str, decode: Decode) -> Answer:
        """Decode a request that arrived just now, answer it, count it. Raises a Fault."""
        exchange = Exchange(self, protocol, model_name)
        try:
            decoded = decode(exchange.arrived)
            entry = exchange.submit(decoded if isinstance(decoded, Request) else await decoded)
            await entry.future
            return exchange.collect(entry)
        except asyncio.CancelledError:
            exchange.count("CANCELLED")
            raise
        except Exception as error:
            raise exchange.failed(error) from None


class Exchange:
    """One request and what becomes of it, counted once: by `collect`, by `failed` or as cancelled.

    `arrived`: an instant of `time.perf_counter`.
    """

    __slots__ = ("_model_name", "_protocol", "_request", "_serving", "arrived")

    def __init__(self, serving: Serving, protocol: str, model_name: str) -> None:
        self.arrived = time.perf_counter()
        self._serving = serving
        self._protocol = protocol
        self._model_name = model_name
        self._request: Request | None = None

    def submit(self, request: Request) -> Entry:
        """Let the decoded request wait for its batch. Raises a Fault."""
        self._request = request
        return self._serving.aggregator.submit(request)

    def collect(self, entry: Entry) -> Answer:
        """The answer, once the entry's future is done. Raises a Fault."""
        assert self._request is not None  # noqa: S101  an entry comes of `submit`
        serving, answer = self._serving, self._serving.aggregator.collect(self._request, entry)
        counted, total = answer.counted, answer.total_seconds
        serving.statistics.answered(self._model_name, answer.queue_seconds, counted.compute_seconds, total)
        serving.telemetry.answered(
            answer.live.name, counted.policy, self._protocol, answer.rows, answer.queue_seconds, total
        )
        return answer

    def failed(self, error: Exception) -> Fault:
        """Count the request as failed; the fault to tell its caller."""
        fault = error if isinstance(error, Fault) else Internal("the request broke; this is a bug")
        if fault is not error:
            log.error("a request to %s broke; this is a bug", self._model_name[:64], exc_info=error)
        if self._model_name in self._serving.catalog.models:
            self._serving.statistics.failed(self._model_name, time.perf_counter() - self.arrived)
        self.count(status(fault).grpc.name)
        return fault

    def count(self, code: str) -> None:
        """Count a request without an answer. Names that a stranger made up are counted as "", so that they make no series."""
        model = self._serving.catalog.models.get(self._model_name)
        seconds = time.perf_counter() - self.arrived
        ensemble = model.live.name if model else ""
        self._serving.telemetry.failed(ensemble, self._policy(), self._protocol, code, seconds)

    def _policy(self) -> str:
        request = self._request
        if request is None:
            return ""
        spec = request.model.live.spec
        asked = request.model.policy or request.policy or spec.policies.default
        return asked if asked in spec.policy_names else ""


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
