"""What goes to a server and what comes back, whatever the protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

OK = "OK"
DEADLINE = "DEADLINE_EXCEEDED"
UNAVAILABLE = "UNAVAILABLE"
BAD_ANSWER = "BAD_ANSWER"
"""The code of what arrived but is no answer to the question."""


class TargetError(Exception):
    """A target that cannot be asked; one line that says what was found and what was expected."""


class Answer(NamedTuple):
    """What one request was answered. `labels`: class indices [rows]; -1 is an abstention. Empty where `code` is not OK."""

    labels: list[int]
    partial: bool = False
    degraded: bool = False
    device_seconds: float = 0.0
    cost_usd: float = 0.0
    policy: str = ""
    code: str = OK
    message: str = ""


class Raw(NamedTuple):
    """An answer as it came. `code`: OK, the name of a gRPC code, or an HTTP status."""

    code: str
    message: str
    head: bytes
    """The HTTP headers with the status line; empty over gRPC."""
    body: bytes
    parsed: Any = None
    """The body, where it had to be parsed to learn whose answer it is."""
    lost: bool = False
    """There is no server, or no connection to it."""


class Call:
    """One request under way. All instants are of the monotonic clock, in seconds."""

    __slots__ = ("arm", "block", "planned", "sent", "state")

    def __init__(self, arm: int, block: int, planned: float) -> None:
        self.arm = arm
        self.block = block
        """Which rows it carries: a number in the arm's order of requests."""
        self.planned = planned
        self.sent = 0.0
        self.state: Any = None
        """The transport's own."""


def lost(message: str) -> Raw:
    """How a request ends that no server answers."""
    return Raw(UNAVAILABLE, message, b"", b"", None, lost=True)


Done = Callable[[Call, Raw, float], None]
"""Told when a request has ended, and when its last byte came."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the server says of a model. `shape`: of one sample, -1 where any size will do. Empty or 0: it does not say."""

    name: str
    input_name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    default_policy: str = ""
    output: str = ""
    """The one that is read as the answer, over the Open Inference Protocol."""
    batched: bool = True
    """Whether the input has a batch dimension."""
    max_batch_size: int = 0
    ready: bool = True
    version: str = ""
    digest: str = ""


class Codec(Protocol):
    """A request is a head, the same for all of a policy, and a tail, the rows: joined they are the message."""

    def head(self, policy: str) -> bytes: ...
    def tail(self, rows: NDArray[Any]) -> bytes: ...
    def decode(self, raw: Raw) -> Answer:
        """Raises any exception for what is no answer; `raw.code` is OK."""
        ...


class Caller(Protocol):
    """Sends. Only `open`, `ask` and `close` wait."""

    async def open(self) -> None:
        """Raises TargetError."""
        ...

    def send(self, call: Call, head: bytes, tail: bytes) -> None:
        """Sets `call.sent`; ends in the `Done` that the caller was made with, exactly once unless `forget` came before."""
        ...

    def forget(self, call: Call) -> None:
        """Tell the server that nobody waits for this any more."""
        ...

    async def close(self) -> None: ...
