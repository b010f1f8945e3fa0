"""Spans for OpenTelemetry, which has its one home here: made after the answer of what is known by then, sent by a thread in the background.

Where they are sent is a setting; what only the exporter needs to know (headers with a key, certificates, compression, timeouts, the
resource's own attributes) are the environment variables of OpenTelemetry, `OTEL_…`, which it reads by itself.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

from serving.journey import Journey
from serving.records import MemberRun, Outcome
from serving.settings import Settings, SettingsError
from serving.trace import SpanContext

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext as OtelSpanContext
    from opentelemetry.trace import SpanKind, Status, StatusCode, TraceFlags, TraceState
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as missing:
    raise SettingsError(
        f"otlp_endpoint: found no {missing.name}, expected the extra `tracing`: pip install 'scrutin[tracing]'"
    ) from None

log = logging.getLogger(__name__)

LATER_SECONDS = 0.005
"""From the end of a request to the making of its spans: by then its answer has left."""

CLOSE_SECONDS = 1.0
"""For the last spans, when the process ends; a collector that is away must not keep it."""

SPANS_AT_ONCE = 64
"""Python spends 2 ms on writing them, in which requests may have to wait for it; on the library's own 512, 16 ms."""

TALKATIVE = ("opentelemetry.exporter", "opentelemetry.trace")
"""They tell every failure to send, where `_Collector` tells one, and every tracestate that is none, which callers choose."""

TRACES_PATH = "/v1/traces"
NANOSECONDS = 1e9

Attributes = Mapping[str, AttributeValue]


def traces_url(endpoint: str) -> str:
    """Where an endpoint takes traces: at the standard path, unless it names one itself. Raises SettingsError."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port  # which is read, and may turn out to be none, only here
    except ValueError:
        raise _no_url(endpoint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or endpoint.split() != [endpoint]:
        raise _no_url(endpoint)
    return urlunsplit(parts._replace(path=TRACES_PATH)) if parts.path in ("", "/") else endpoint


def _no_url(endpoint: str) -> SettingsError:
    found = _without_secret(endpoint)
    return SettingsError(f"otlp_endpoint: found {found!r}, expected a URL such as http://localhost:4318")


def _without_secret(url: str) -> str:
    """Without the name and password that may be in front of the host."""
    _, secret, host = url.rpartition("@")
    return f"…@{host}" if secret else url


class Tracer:
    """Makes the spans of journeys and sends them."""

    def __init__(self, settings: Settings, endpoint: str) -> None:
        """Raises SettingsError, also for variables of OpenTelemetry that it cannot work with."""
        url = traces_url(endpoint)
        try:
            collector = _Collector(OTLPSpanExporter(url), _without_secret(url))
            self._processor = BatchSpanProcessor(collector, max_export_batch_size=SPANS_AT_ONCE)
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"OTEL_…: OpenTelemetry refuses its variables, with max_export_batch_size {SPANS_AT_ONCE}: {error}"
            ) from None
        for name in TALKATIVE:  # only now, since what they say of the variables is worth hearing
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.ratio = settings.trace_ratio
        self._resource = Resource({"service.name": "scrutin", "service.version": version("scrutin")}).merge(
            OTELResourceDetector().detect()
        )
        self._scope = InstrumentationScope("serving", version("scrutin"))

    def ended(self, journey: Journey) -> None:
        asyncio.get_running_loop().call_later(LATER_SECONDS, self._make, journey)

    def close(self) -> None:
        """Send what is left. Returns after a second at the latest."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _make(self, journey: Journey) -> None:
        try:
            for span in self._spans(journey):
                self._processor.on_end(span)
        except Exception:
            log.exception("a trace of %s broke; this is a bug", journey.ensemble)

    def _spans(self, journey: Journey) -> Iterator[ReadableSpan]:
        """The request's own span and its children, which lie within it."""
        assert journey.span is not None  # noqa: S101  it is sampled
        here = journey.span
        state = TraceState.from_header([here.state]) if here.state else None
        own = _context(here, state)
        parent = _context(journey.parent, state, remote=True) if journey.parent else None
        epoch = time.time_ns() - time.perf_counter_ns()

        def span(
            name: str,
            began: float,
            ended: float,
            attributes: Attributes,
            fault: str = "",
            context: OtelSpanContext | None = None,
        ) -> ReadableSpan:
            """From one instant to another, as far as they lie within the request."""
            began = min(max(began, journey.arrived), journey.ended)
            ended = min(max(ended, began), journey.ended)
            return ReadableSpan(
                name,
                context or _context(here.child(), state),
                parent if context else own,
                self._resource,
                attributes,
                kind=SpanKind.SERVER if context else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR, fault) if fault else Status(),
                start_time=epoch + int(began * NANOSECONDS),
                end_time=epoch + int(ended * NANOSECONDS),
                instrumentation_scope=self._scope,
            )

        fault = journey.why if journey.our_fault else ""
        yield span(journey.operation.name, journey.arrived, journey.ended, _of_request(journey), fault, own)
        yield span("admit", journey.arrived, journey.admitted or journey.ended, {})
        if journey.admitted:
            yield span("queue", journey.admitted, journey.started or journey.ended, {})
        for run in journey.runs:
            hold = run.hold
            if hold is not None and journey.arrived <= hold.started < journey.ended:
                ended, fault = (hold.ended, _fault_of(run)) if _over(run, journey) else (journey.ended, "")
                yield span(f"member {run.member}", hold.started, ended, _of_run(run, journey), fault)
        if journey.voted:
            yield span("vote", journey.voted, journey.voted + journey.vote_seconds, {})


def _context(span: SpanContext, state: TraceState | None, remote: bool = False) -> OtelSpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if span.sampled else TraceFlags.DEFAULT)
    return OtelSpanContext(int(span.trace_id, 16), int(span.span_id, 16), remote, flags, state)


def _of_request(journey: Journey) -> Attributes:
    """By the semantic conventions of RPC and HTTP, and what an answer says of itself."""
    attributes: dict[str, AttributeValue] = {"ensemble.name": journey.ensemble, "ensemble.policy": journey.policy}
    operation = journey.operation
    if operation.protocol == "grpc":
        attributes |= {
            "rpc.system.name": "grpc",
            "rpc.method": operation.name,
            "rpc.response.status_code": journey.code,
        }
    else:
        method, _, route = operation.name.partition(" ")
        attributes |= {"http.request.method": method, "http.route": route, "url.scheme": "http"}
        attributes |= {"http.response.status_code": journey.status}
    if journey.our_fault:
        attributes["error.type"] = journey.code
    if journey.request_id:
        attributes["ensemble.request_id"] = journey.request_id
    attributes["ensemble.code"] = journey.code
    if journey.answered:
        attributes |= {
            "ensemble.rows": journey.rows,
            "ensemble.partial": journey.partial,
            "ensemble.exact": journey.exact,
            "ensemble.cost_usd": journey.cost_usd,
        }
    return attributes


def _of_run(run: MemberRun, journey: Journey) -> Attributes:
    """A run is shared by all requests of its batch. `ensemble.outcome`: what became of the votes on this one's rows."""
    outcome = journey.outcomes.get(run.member) or (run.outcome if _over(run, journey) else Outcome.LATE)
    return {
        "ensemble.member": run.member,
        "ensemble.outcome": str(outcome),
        "ensemble.batch_rows": run.rows,
        "ensemble.device": run.device,
    }


def _over(run: MemberRun, journey: Journey) -> bool:
    """Whether it was when the request ended."""
    return run.hold is not None and run.seconds > 0 and 0 < run.hold.ended <= journey.ended


def _fault_of(run: MemberRun) -> str:
    return (run.fault or "failed") if run.outcome is Outcome.FAILED else ""


class _Collector(SpanExporter):
    """Sends to a collector, and tells once when it does not take spans any more, and once when it does again."""

    def __init__(self, exporter: OTLPSpanExporter, url: str) -> None:
        self._exporter = exporter
        self._url = url
        self._taken = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        taken = result is SpanExportResult.SUCCESS
        if taken != self._taken:
            self._taken = taken
            if taken:
                log.warning("%s takes spans again", self._url)
            else:
                log.warning("%s takes no spans; they are dropped until it does", self._url)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
