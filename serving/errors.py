"""Why a request gets no answer. Knows no status codes; `wire/status.py` maps every leaf to both wires.

Fault
├── InvalidRequest     what came is not a request: the message says what was found and expected
├── Unknown            no such ensemble, member or version
├── TooLarge           more bytes than any request to it needs
├── Overloaded         refused at once; `retry_after` says when to try again
│   ├── QueueFull      as many rows wait as may
│   └── TooLate        what waits already would keep it beyond its deadline
├── NotReady           still loading, draining, or not trusted with traffic
├── BelowQuorum        too few members voted; names them
├── DeadlinePassed     the time was up before the answer was there
├── Unsupported        a call of the protocol that this server does not offer
└── Internal           a broken invariant of ours: a bug
"""


class Fault(Exception):
    """Base of all. The message is one line, safe to send to a stranger: no path, no traceback."""


class InvalidRequest(Fault):
    """What came is not a request."""


class Unknown(Fault):
    """No such ensemble, member or version."""


class TooLarge(Fault):
    """More bytes than any request to it needs."""


class Overloaded(Fault):
    """Too much is waiting already. `retry_after`: seconds until a retry is worth it."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """As many rows wait as may."""


class TooLate(Overloaded):
    """What waits already would keep it beyond its deadline."""


class NotReady(Fault):
    """Still loading, draining, or not trusted with traffic."""


class BelowQuorum(Fault):
    """Too few members voted."""


class DeadlinePassed(Fault):
    """The time was up before the answer was there."""


class Unsupported(Fault):
    """A call of the protocol that this server does not offer."""


class Internal(Fault):
    """A broken invariant of ours: a bug."""
