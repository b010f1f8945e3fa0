"""What every protocol does with a request: decode it, have it answered, count it once with its code."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property

from ensembles.spec import InputSpec
from serving.aggregator import Aggregator, Answer, Request
from serving.catalog import Catalog
from serving.errors import Fault, Internal
from serving.statistics import Statistics
from serving.telemetry import Handled, Telemetry
from serving.wire.status import status

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"

ROOM_BYTES = 1 << 16
"""For the frame around the rows: names, parameters, JSON keys."""

IMAGE_BYTES = 16 << 20
"""A picture as a camera writes it; what it may become is limited by the codec."""

TAKES_IMAGES = "/scrutin.v1.EnsembleService/Predict"

JSON_BYTES_PER_VALUE = 32
"""More than any number of JSON needs that was printed from a double, with its separators."""


Decode = Callable[[float], Request | Awaitable[Request]]
"""Gives the request that arrived at an instant. One that takes long, as pictures do, is awaited."""


@dataclass(frozen=True)
class Serving:
    """What the protocols need of the server."""

    catalog: Catalog
    aggregator: Aggregator
    telemetry: Telemetry
    statistics: Statistics

    def max_bytes(self, path: str) -> int:
        """The most that a gRPC request of this path needs."""
        return self.max_image_bytes if path.startswith(TAKES_IMAGES) else self.max_tensor_bytes

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
        arrived = time.perf_counter()
        request: Request | None = None
        answer: Answer | None = None
        code = "CANCELLED"
        try:
            decoded = decode(arrived)
            request = decoded if isinstance(decoded, Request) else await decoded
            answer = await self.aggregator.answer(request)
            code = "OK"
            counted = answer.counted
            self.statistics.answered(model_name, answer.queue_seconds, counted.compute_seconds, answer.total_seconds)
            return answer  # noqa: TRY300  the count below is for this path too
        except Exception as error:
            fault = error if isinstance(error, Fault) else Internal("the request broke; this is a bug")
            code = status(fault).grpc.name
            if model_name in self.catalog.models:
                self.statistics.failed(model_name, time.perf_counter() - arrived)
            if fault is not error:
                log.exception("a request to %s broke; this is a bug", model_name[:64])
            raise fault from None
        finally:
            self.telemetry.request(self._handled(protocol, model_name, request, answer, code, arrived))

    def _handled(
        self, protocol: str, model_name: str, request: Request | None, answer: Answer | None, code: str, arrived: float
    ) -> Handled:
        """Names that a stranger made up are counted as "", so that they cannot make series."""
        if answer is not None:
            policy = answer.counted.policy
            return Handled(
                answer.live.name, policy, protocol, code, answer.rows, answer.total_seconds, answer.queue_seconds
            )
        model = self.catalog.models.get(model_name)
        ensemble = model.live.name if model else ""
        asked = request.model.policy or request.policy or request.model.live.spec.policies.default if request else ""
        policy = asked if request and asked in request.model.live.spec.policy_names else ""
        return Handled(ensemble, policy, protocol, code, 0, time.perf_counter() - arrived)


def sooner(first: float | None, second: float | None) -> float | None:
    """The smaller of two timeouts, None being none."""
    return min((seconds for seconds in (first, second) if seconds is not None), default=None)


def _row_bytes(given: InputSpec) -> int:
    """Of one row in its longest form, which is JSON."""
    return given.row_bytes // given.dtype.itemsize * max(JSON_BYTES_PER_VALUE, given.dtype.itemsize)
