"""May this request in? Refuses at once, before anything is spent on it."""

from typing import Any

from ensembles.members import Rows
from ensembles.spec import EnsembleSpec, InputSpec
from serving.batch_queue import BatchQueue
from serving.errors import DeadlinePassed, InvalidRequest, QueueFull

RETRY_AFTER_SECONDS = 1.0
"""What a refused caller is told: HTTP counts in whole seconds, and a queue of small models has moved on by then."""


def admit(spec: EnsembleSpec, queue: BatchQueue[Any], rows: Rows, policy: str, remaining: float) -> None:
    """Raises InvalidRequest, DeadlinePassed or QueueFull. `remaining`: seconds until the deadline."""
    if policy not in spec.policy_names:
        raise InvalidRequest(f"unknown policy {policy[:64]!r}, expected one of {', '.join(spec.policy_names)}")
    _check_rows(spec.input, rows, spec.limits.max_batch_size)
    if remaining <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    if not queue.fits(len(rows)):
        limit = spec.limits.max_queue_size
        raise QueueFull(f"{queue.rows} rows are waiting, {len(rows)} more would exceed {limit}", RETRY_AFTER_SECONDS)


def _check_rows(given: InputSpec, rows: Rows, limit: int) -> None:
    if rows.shape[1:] != given.shape or rows.dtype != given.dtype:
        expected = ", ".join(map(str, ["rows", *given.shape]))
        raise InvalidRequest(
            f"input {given.name!r}: found {rows.dtype} {list(rows.shape)}, expected {given.dtype} [{expected}]"
        )
    if not 1 <= len(rows) <= limit:
        raise InvalidRequest(f"input {given.name!r}: found {len(rows)} rows, expected 1 to {limit}")
