"""One table: what each fault is called on either wire."""

from dataclasses import dataclass

from grpc import StatusCode

from serving.errors import (
    BelowQuorum,
    DeadlinePassed,
    Fault,
    Internal,
    InvalidRequest,
    NotReady,
    QueueFull,
    TooLarge,
    TooLate,
    Unknown,
    Unsupported,
)


@dataclass(frozen=True, slots=True)
class Status:
    """A gRPC status code and the HTTP status that says the same."""

    grpc: StatusCode
    http: int


STATUS: dict[type[Fault], Status] = {
    InvalidRequest: Status(StatusCode.INVALID_ARGUMENT, 400),
    Unknown: Status(StatusCode.NOT_FOUND, 404),
    TooLarge: Status(StatusCode.RESOURCE_EXHAUSTED, 413),
    QueueFull: Status(StatusCode.RESOURCE_EXHAUSTED, 429),
    TooLate: Status(StatusCode.RESOURCE_EXHAUSTED, 429),
    NotReady: Status(StatusCode.UNAVAILABLE, 503),
    BelowQuorum: Status(StatusCode.UNAVAILABLE, 503),
    DeadlinePassed: Status(StatusCode.DEADLINE_EXCEEDED, 504),
    Unsupported: Status(StatusCode.UNIMPLEMENTED, 501),
    Internal: Status(StatusCode.INTERNAL, 500),
}


def status(fault: Fault) -> Status:
    return STATUS[type(fault)]
