"""W3C Trace Context: whose trace a request is part of, and its own place in it."""

import random
import re
from typing import NamedTuple

TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 0x01
NO_TRACE, NO_SPAN = b"0" * 32, b"0" * 16
LONGEST_STATE = 512
"""Characters of a tracestate that everybody has to pass on; a longer one is left out, as the specification allows."""


class SpanContext(NamedTuple):
    """One span's name in its trace: 32 and 16 hexadecimal digits. `state`: the tracestate that goes with it, as it came."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    def child(self) -> "SpanContext":
        """A new span of the same trace."""
        return self._replace(span_id=_digits(64))


def root() -> SpanContext:
    """The first span of a new trace, which is sampled."""
    return SpanContext(_digits(128), _digits(64), sampled=True)


def _digits(bits: int) -> str:
    """Never all zero, which means none."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


def parse(traceparent: bytes, tracestate: bytes = b"") -> SpanContext | None:
    """The caller's span, or None for what is no traceparent: then it's as if there were none.

    Versions to come may say more behind the four fields of this one.
    """
    match = TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    state = tracestate.decode("latin-1") if len(tracestate) <= LONGEST_STATE else ""
    return SpanContext(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & SAMPLED), state)
