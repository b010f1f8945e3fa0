"""The outputs of the Open Inference Protocol, and a batch's answers as their bytes, made once for all requests in the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer
from serving.catalog import Live
from serving.errors import InvalidRequest
from serving.records import Counted, Outcome
from serving.wire.protobuf import delimited, varint
from serving.wire.shared import PerBatch

MICROSECONDS = 1e6

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One output tensor of every model. `dims`: its shape behind the batch dimension; `values`: of a batch, [n, *dims]."""

    name: str
    datatype: str
    dims: Callable[[EnsembleSpec], list[int]]
    values: Callable[[Live, Counted], NDArray[Any]]


def _labels(live: Live, counted: Counted) -> NDArray[Any]:
    return live.label_names[counted.result.label_index]  # the last name, for -1, is the empty one of an abstention


OUTPUTS = {
    output.name: output
    for output in (
        Output("label", "BYTES", lambda spec: [], _labels),
        Output("label_index", "INT64", lambda spec: [], lambda live, counted: counted.result.label_index),
        Output(
            "probabilities",
            "FP32",
            lambda spec: [len(spec.labels)],
            lambda live, counted: counted.result.probabilities,
        ),
        Output("agreement", "FP32", lambda spec: [], lambda live, counted: counted.result.agreement),
        Output("margin", "FP32", lambda spec: [], lambda live, counted: counted.result.margin),
        Output("votes", "INT64", lambda spec: [len(spec.members)], lambda live, counted: counted.result.votes),
        Output("exact", "BOOL", lambda spec: [], lambda live, counted: counted.exact),
    )
}
ALL_OUTPUTS = tuple(OUTPUTS.values())


@lru_cache(256)
def requested(names: tuple[str, ...]) -> tuple[Output, ...]:
    """The outputs of these names; all, if there are none. Raises InvalidRequest."""
    if not names:
        return ALL_OUTPUTS
    if len(names) > len(OUTPUTS):
        raise InvalidRequest(f"found {len(names)} requested outputs, expected at most {len(OUTPUTS)}")
    for name in names:
        if name not in OUTPUTS:
            raise InvalidRequest(f"unknown output {name[:64]!r}, expected one of {', '.join(OUTPUTS)}")
    return tuple(OUTPUTS[name] for name in names)


def wrong_inputs(spec: EnsembleSpec, names: Sequence[str]) -> InvalidRequest:
    """For inputs that are not the one of the manifest."""
    found = ", ".join(repr(name[:64]) for name in names[:4]) or "none"
    return InvalidRequest(f"found the inputs {found}, expected one named {spec.input.name!r}")


def policy_of(parameters: dict[str, Any]) -> str:
    """Raises InvalidRequest."""
    policy = parameters.get("policy", "")
    if not isinstance(policy, str):
        raise InvalidRequest(f"parameter policy: found {type(policy).__name__}, expected a string")
    return policy


def timeout_of(parameters: dict[str, Any]) -> float | None:
    """Seconds, from microseconds; 0 is none, as tritonclient means it. Raises InvalidRequest."""
    timeout = parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise InvalidRequest(
            f"parameter timeout: found {str(timeout)[:32]!r}, expected microseconds as a whole number, 0 or more"
        )
    return timeout / MICROSECONDS or None


def no_classification(name: str) -> InvalidRequest:
    """For an output asked for in a form that is not announced."""
    return InvalidRequest(f"output {name[:64]!r}: found the parameter classification, which is not offered")


class Column:
    """One output of a whole batch, as values and as the protocol's raw bytes, from which each request takes its rows."""

    def __init__(self, output: Output, live: Live, counted: Counted) -> None:
        self.output = output
        self._values = output.values(live, counted)
        if output.datatype == "BYTES":
            encoded = [text.encode() for text in self._values.tolist()]
            self._elements = [len(text).to_bytes(4, "little") + text for text in encoded]
        else:
            self._raw = self._values.tobytes()
            self._row_bytes = len(self._raw) // counted.rows

    def raw(self, start: int, stop: int) -> bytes:
        if self.output.datatype == "BYTES":
            return b"".join(self._elements[start:stop])
        return self._raw[start * self._row_bytes : stop * self._row_bytes]

    def rows(self) -> list[bytes]:
        """The raw bytes of each row."""
        if self.output.datatype == "BYTES":
            return self._elements
        raw, size = self._raw, self._row_bytes
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def fields(self, before: bytes) -> list[bytes]:
        """Each row as a field of protobuf. `before`: its tag."""
        if self.output.datatype == "BYTES":
            return [delimited(before, element) for element in self._elements]
        raw, size = self._raw, self._row_bytes
        prefix = before + varint(size)
        return [prefix + raw[at : at + size] for at in range(0, len(raw), size)]

    def values(self, start: int, stop: int) -> list[Any] | NDArray[Any]:
        """Flat, for JSON."""
        values = self._values[start:stop]
        return values.tolist() if self.output.datatype == "BYTES" else values.ravel()


class Columns:
    """The columns of a batch."""

    def __init__(self) -> None:
        self._columns: PerBatch[list[Column]] = PerBatch()

    def of(self, answer: Answer, outputs: tuple[Output, ...]) -> list[Column]:
        made = self._columns.of(answer.counted)
        columns = made.get(outputs)
        if columns is None:
            columns = made[outputs] = [Column(output, answer.live, answer.counted) for output in outputs]
        return columns


def lasting_parameters(answer: Answer) -> dict[str, Parameter]:
    """The response parameters that stay the same from batch to batch, as long as the members fare the same.

    Those that differ are the times, the device seconds and the cost, all in `BATCH_PARAMETERS`, the time in the queue and the receipt.
    """
    runs = answer.members
    named = {outcome: [run.member for run in runs if run.outcome is outcome] for outcome in Outcome}
    return {
        "ensemble_policy": answer.counted.policy,
        "ensemble_partial": answer.partial,
        **{f"ensemble_members_{outcome.value}": ",".join(members) for outcome, members in named.items()},
        "ensemble_digest": answer.live.digest,
        "ensemble_certificate": answer.certificate,
        "ensemble_requested_policy": answer.asked,
        "ensemble_brownout_level": answer.brownout_level,
    }


BATCH_PARAMETERS = ("ensemble_compute_us", "ensemble_vote_us", "ensemble_device_seconds", "ensemble_cost_usd")
"""The response parameters that all requests of a batch share which are `alike`."""


def of_batch(answer: Answer) -> tuple[int, int, float, float]:
    """Their values."""
    counted = answer.counted
    device_seconds, cost_usd = answer.spent
    return (
        int(counted.compute_seconds * MICROSECONDS),
        int(counted.vote_seconds * MICROSECONDS),
        device_seconds,
        cost_usd,
    )


def queue_microseconds(answer: Answer) -> int:
    return int(answer.queue_seconds * MICROSECONDS)
