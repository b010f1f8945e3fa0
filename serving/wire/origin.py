"""What the headers of a request say of where it comes from: W3C's traceparent and tracestate, and x-request-id."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.journey import LONGEST_ID, Caller
from serving.logs import about
from serving.trace import SpanContext, parse

TRACEPARENT, TRACESTATE, REQUEST_ID = b"traceparent", b"tracestate", b"x-request-id"


def caller(headers: Mapping[bytes, bytes], fields: Sequence[tuple[bytes, bytes]]) -> Caller:
    """`fields`: the headers as they came, one by one."""
    request_id = headers.get(REQUEST_ID, b"")
    return Caller(request_id.decode("latin-1") if len(request_id) <= LONGEST_ID else "", _parent(headers, fields))


def _parent(headers: Mapping[bytes, bytes], fields: Sequence[tuple[bytes, bytes]]) -> SpanContext | None:
    """Two traceparents are none; several tracestates are one."""
    if TRACEPARENT not in headers:
        return None
    state = headers.get(TRACESTATE, b"")
    if len(fields) > len(headers):  # some came more than once
        if sum(name == TRACEPARENT for name, _ in fields) > 1:
            return None
        state = b",".join(value for name, value in fields if name == TRACESTATE)
    return parse(headers[TRACEPARENT], state)


def echo(caller: Caller | None) -> list[tuple[bytes, bytes]]:
    """The headers of an answer by which its caller knows the request again."""
    return [(REQUEST_ID, caller.request_id.encode("latin-1"))] if caller and caller.request_id else []


def names(caller: Caller | None) -> Mapping[str, Any]:
    """What a line of the log about the request names it by."""
    if caller is None:
        return {}
    parent = caller.parent
    return about(
        request_id=caller.request_id,
        trace_id=parent.trace_id if parent else "",
        span_id=parent.span_id if parent else "",
    )
