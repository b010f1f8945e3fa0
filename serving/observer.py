"""Who is told of single requests: the log, of those that failed by our doing or of all, and the traces, of those that are sampled."""

import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from serving.journey import SERVER_FAULT, Caller, Journey, Operation
from serving.logs import about
from serving.trace import root

log = logging.getLogger("serving.requests")

MOST_LINES = 10
"""A second, of requests that failed by our doing and not by a bug: when no member answers, every request does, and one line says as much."""


class Tracer(Protocol):
    """Who makes spans of journeys. `ratio`: the share of requests that it begins a trace for, of those that come without one."""

    ratio: float

    def ended(self, journey: Journey) -> None:
        """Make spans of it, later."""

    def close(self) -> None:
        """Send what is left, and take no more. Blocks."""


class Observer:
    """Follows no request that nobody wants to hear of. Without a `tracer`, callers' traces are told in the log and the exemplars all the same."""

    def __init__(self, tracer: Tracer | None = None, access_log: bool = False) -> None:
        self._tracer = tracer
        self._access_log = access_log
        self._ratio = tracer.ratio if tracer is not None else 0.0
        self._room = Room()
        self.idle = not access_log and not self._ratio
        """Whether nobody wants to hear of a request that is part of no trace, unless it fails."""

    def follow(self, operation: Operation, caller: Caller | None, arrived: float) -> Journey | None:
        """The journey of a request that somebody wants to hear of, however it ends."""
        span = caller.parent if caller else None
        if self._tracer is not None:
            if span is not None:
                span = span.child() if span.sampled else span
            elif random.random() < self._ratio:  # noqa: S311  a sample, no secret
                span = root()
        if not self._access_log and (span is None or not span.sampled):
            return None
        return Journey.of(operation, arrived, caller, span)

    def ended(self, journey: Journey, bug: Exception | None = None) -> None:
        """A request has its answer, or will have none. `bug`: what broke."""
        if self._tracer is not None and journey.sampled:
            self._tracer.ended(journey)
        if journey.status == SERVER_FAULT:
            _tell(logging.ERROR, journey, bug=bug)
        elif self._access_log:
            _tell(logging.WARNING if journey.our_fault else logging.INFO, journey)
        elif journey.our_fault and (left_out := self._room.take()) is not None:
            _tell(logging.WARNING, journey, left_out)


class Room:
    """For MOST_LINES a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._told = self._untold = 0

    def take(self) -> int | None:
        """None if this line would be one too many; else how many were, before it."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._told = second, 0
        if self._told == MOST_LINES:
            self._untold += 1
            return None
        self._told += 1
        untold, self._untold = self._untold, 0
        return untold


def _tell(level: int, journey: Journey, left_out: int = 0, bug: Exception | None = None) -> None:
    span = journey.span
    fields = about(
        request_id=journey.request_id,
        trace_id=span.trace_id if span else "",
        span_id=span.span_id if span else "",
        ensemble=journey.ensemble,
        policy=journey.policy,
        protocol=journey.operation.protocol,
        operation=journey.operation.name,
        code=journey.code,
        rows=journey.rows or None,
        seconds=round(journey.seconds, 6),
        left_out=left_out or None,
    )
    why = f": {journey.why}" if journey.why else ""
    more = f" ({left_out} such lines left out)" if left_out else ""
    where = journey.ensemble or "no ensemble"
    log.log(
        level, "%s: %s after %.6f s%s%s", where, journey.code, journey.seconds, why, more, extra=fields, exc_info=bug
    )
