"""May this request in? Refuses at once, before anything is spent on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ensembles.members import Rows
from ensembles.spec import EnsembleSpec
from serving.batch_queue import BatchQueue
from serving.errors import DeadlinePassed, InvalidRequest, QueueFull, TooLate

MARGIN = 2.0
"""How many times the expected wait a request must have left. What is expected of a queue at its limit is often too little, and a queue
whose every request is answered just too late does work for nobody."""

LEAST_RETRY_SECONDS, UNKNOWN_RETRY_SECONDS = 0.01, 1.0
"""When to come back: not at once, and where nothing is known of the pace, after what HTTP can say at the least."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an ensemble asks of requests: the manifest's words as plain values, since each request is held against them."""

    input_name: str
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    most_rows: int
    timeout_seconds: float
    default_policy: str
    policies: tuple[str, ...]

    @classmethod
    def of(cls, spec: EnsembleSpec) -> "Terms":
        given, limits = spec.input, spec.limits
        return cls(
            given.name, given.shape, given.dtype, limits.max_batch_size, limits.timeout_ms / 1000,
            spec.policies.default, spec.policy_names,
        )  # fmt: skip


def admit(terms: Terms, queue: BatchQueue[Any], rows: Rows, remaining: float, wait: float, run_seconds: float) -> None:
    """Raises InvalidRequest, DeadlinePassed, QueueFull or TooLate.

    `remaining`: seconds until the deadline; `wait`: so many seconds it is expected to wait in the queue, and `run_seconds` to run.
    With an empty queue it is always let in, since only by running does one learn that runs have become shorter.
    """
    _check_rows(terms, rows)
    if remaining <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    if not queue.fits(len(rows)):
        fault = f"{queue.rows} rows are waiting, {len(rows)} more would exceed {queue.max_queue_size}"
        raise QueueFull(fault, max(wait, LEAST_RETRY_SECONDS) if wait else UNKNOWN_RETRY_SECONDS)
    needed = MARGIN * wait + run_seconds
    if queue.rows and needed > remaining:
        fault = f"{queue.rows} rows are waiting, an answer may take {needed:.3g} s, and the request has {remaining:.3g} s left"
        raise TooLate(fault, max(needed - remaining, LEAST_RETRY_SECONDS))


def unknown_policy(terms: Terms, policy: str) -> InvalidRequest:
    """For a policy that there is none of."""
    return InvalidRequest(f"unknown policy {policy[:64]!r}, expected one of {', '.join(terms.policies)}")


def _check_rows(terms: Terms, rows: Rows) -> None:
    if rows.shape[1:] != terms.row_shape or rows.dtype != terms.dtype:
        expected = ", ".join(map(str, ["rows", *terms.row_shape]))
        raise InvalidRequest(
            f"input {terms.input_name!r}: found {rows.dtype} {list(rows.shape)}, expected {terms.dtype} [{expected}]"
        )
    if not 1 <= len(rows) <= terms.most_rows:
        raise InvalidRequest(f"input {terms.input_name!r}: found {len(rows)} rows, expected 1 to {terms.most_rows}")
