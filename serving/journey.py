"""The way of one request, for those who follow it: traces, logs and exemplars. Plain values; most requests have none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.records import MemberRun
from serving.trace import SpanContext


class Operation(NamedTuple):
    """What is asked of the server. `name`: an RPC's full method, or an HTTP route behind its method."""

    protocol: str
    name: str


LONGEST_ID = 128
"""Characters of a name that a caller gives a request; a longer one names it nowhere, since log and spans keep what they are given."""


class Caller(NamedTuple):
    """What a request's headers say of where it comes from. `parent`: the span that it is made in."""

    request_id: str = ""
    parent: SpanContext | None = None


SERVER_FAULT = 500
"""HTTP statuses from here on are those of failures by our own doing."""


@dataclass(slots=True)
class Journey:
    """Instants are those of `time.perf_counter`, and 0 for what has not happened. `span`: the request's own; `parent`: its caller's.

    `status`: the HTTP status that says what `code` says, also of other protocols. `exact`: the share of rows; `voted`: when the count
    of the votes began, which took `vote_seconds`. `runs`: those that the request was part of, also while they are under way.
    """

    operation: Operation
    arrived: float
    request_id: str = ""
    parent: SpanContext | None = None
    span: SpanContext | None = None
    ensemble: str = ""
    policy: str = ""
    code: str = "OK"
    status: int = 200
    why: str = ""
    rows: int = 0
    partial: bool = False
    exact: float = 0.0
    cost_usd: float = 0.0
    admitted: float = 0.0
    started: float = 0.0
    voted: float = 0.0
    vote_seconds: float = 0.0
    ended: float = 0.0
    runs: list[MemberRun] = field(default_factory=list)
    outcomes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, operation: Operation, arrived: float, caller: Caller | None, span: SpanContext | None = None
    ) -> "Journey":
        """That of a request. `span`: its own; without one, its caller's stands for it."""
        request_id, parent = caller or Caller()
        return cls(operation, arrived, request_id, parent, span or parent)

    @property
    def seconds(self) -> float:
        return self.ended - self.arrived

    @property
    def sampled(self) -> bool:
        """Whether its trace is kept."""
        return self.span is not None and self.span.sampled

    @property
    def answered(self) -> bool:
        return self.code == "OK"

    @property
    def our_fault(self) -> bool:
        """Whether it failed by our own doing."""
        return self.status >= SERVER_FAULT
