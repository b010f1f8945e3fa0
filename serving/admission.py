"""May this request in? Refuses at once, before anything is spent on it."""

from typing import Any

from ensembles.members import Rows
from ensembles.spec import EnsembleSpec, InputSpec
from serving.batch_queue import BatchQueue
from serving.errors import DeadlinePassed, InvalidRequest, QueueFull, TooLate

MARGIN = 2.0
"""How many times the expected wait a request must have left. What is expected of a queue at its limit is often too little, and a queue
whose every request is answered just too late does work for nobody."""

LEAST_RETRY_SECONDS, UNKNOWN_RETRY_SECONDS = 0.01, 1.0
"""When to come back: not at once, and where nothing is known of the pace, after what HTTP can say at the least."""


def admit(
    spec: EnsembleSpec, queue: BatchQueue[Any], rows: Rows, remaining: float, wait: float, run_seconds: float
) -> None:
    """Raises InvalidRequest, DeadlinePassed, QueueFull or TooLate.

    `remaining`: seconds until the deadline; `wait`: so many seconds it is expected to wait in the queue, and `run_seconds` to run.
    With an empty queue it is always let in, since only by running does one learn that runs have become shorter.
    """
    _check_rows(spec.input, rows, spec.limits.max_batch_size)
    if remaining <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    if not queue.fits(len(rows)):
        limit = spec.limits.max_queue_size
        fault = f"{queue.rows} rows are waiting, {len(rows)} more would exceed {limit}"
        raise QueueFull(fault, max(wait, LEAST_RETRY_SECONDS) if wait else UNKNOWN_RETRY_SECONDS)
    needed = MARGIN * wait + run_seconds
    if queue.rows and needed > remaining:
        fault = f"{queue.rows} rows are waiting, an answer may take {needed:.3g} s, and the request has {remaining:.3g} s left"
        raise TooLate(fault, max(needed - remaining, LEAST_RETRY_SECONDS))


def unknown_policy(spec: EnsembleSpec, policy: str) -> InvalidRequest:
    """For a policy that there is none of."""
    return InvalidRequest(f"unknown policy {policy[:64]!r}, expected one of {', '.join(spec.policy_names)}")


def _check_rows(given: InputSpec, rows: Rows, limit: int) -> None:
    if rows.shape[1:] != given.shape or rows.dtype != given.dtype:
        expected = ", ".join(map(str, ["rows", *given.shape]))
        raise InvalidRequest(
            f"input {given.name!r}: found {rows.dtype} {list(rows.shape)}, expected {given.dtype} [{expected}]"
        )
    if not 1 <= len(rows) <= limit:
        raise InvalidRequest(f"input {given.name!r}: found {len(rows)} rows, expected 1 to {limit}")
