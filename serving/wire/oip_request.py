"""Serialised ModelInferRequests to what they ask for.

A client sends the very same head (model, input, outputs, parameters) with each request; only the tensor behind it differs. So
heads are remembered by their bytes, and a request with a known one is neither parsed again nor held against the manifest again.
That is sound because protobuf reads concatenated messages as one: a head and one raw tensor behind it are the request.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from ensembles.spec import EnsembleSpec
from serving.errors import InvalidRequest
from serving.wire.codec import rows_from_bytes, rows_from_values
from serving.wire.columns import Output, no_classification, policy_of, requested, timeout_of, wrong_inputs
from serving.wire.protobuf import tag, varint

RAW_TAG = tag(pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number)
REMEMBERED, SIZES = 256, 8
"""Beginnings of requests, and lengths of them, since a request is compared at each of these."""

REMEMBERED_BYTES = 4096

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


@dataclass(frozen=True, slots=True)
class Head:
    """What a request says beside its tensor. `fault`: why it cannot be answered, whatever the tensor is."""

    model_name: str
    model_version: str
    request_id: str
    inputs: tuple[str, ...]
    datatype: str = ""
    shape: tuple[int, ...] = ()
    outputs: tuple[Output, ...] = ()
    policy: str = ""
    timeout: float | None = None
    fault: str = ""


@dataclass(slots=True, eq=False)
class Beginning:
    """What requests begin with that end in a raw tensor: head, tag and length of the tensor. `whole`: bytes of such a request.

    `fits`: the manifest that its last tensor fitted, so that the next one does too.
    """

    head: Head
    whole: int
    fits: EnsembleSpec | None = None


@dataclass(slots=True)
class InferRequest:
    """A request. `raw`: the bytes of its one raw tensor; without one, `message` has what came instead."""

    head: Head
    raw: bytes | memoryview | None
    message: pb.ModelInferRequest | None = None
    beginning: Beginning | None = None

    def rows(self, spec: EnsembleSpec) -> NDArray[Any]:
        """Raises InvalidRequest."""
        known = self.beginning
        if known is not None and known.fits is spec:
            return np.ndarray(known.head.shape, spec.input.dtype, self.raw)
        rows = self._checked(spec)
        if known is not None and self.head.datatype != "BOOL":  # of which each byte has to be looked at
            known.fits = spec
        return rows

    def _checked(self, spec: EnsembleSpec) -> NDArray[Any]:
        head = self.head
        if head.fault:
            raise InvalidRequest(head.fault)
        if head.inputs != (spec.input.name,):
            raise wrong_inputs(spec, head.inputs)
        if self.raw is not None:
            return rows_from_bytes(spec.input, head.datatype, head.shape, self.raw)
        return _typed_rows(spec, head, self.message)


def _typed_rows(spec: EnsembleSpec, head: Head, message: pb.ModelInferRequest) -> NDArray[Any]:
    name, tensor, raw = spec.input.name, message.inputs[0], len(message.raw_input_contents)
    if raw and tensor.HasField("contents"):
        raise InvalidRequest(
            f"contents field must not be specified when using raw_input_contents for {name!r}: found both, expected one"
        )
    if raw:
        raise InvalidRequest(f"found {raw} raw_input_contents, expected one for the one input")
    field = CONTENTS.get(spec.input.datatype)
    if field is None:
        raise InvalidRequest(
            f"input {name!r}: found typed contents, expected {spec.input.datatype} as raw_input_contents"
        )
    return rows_from_values(spec.input, head.datatype, head.shape, getattr(tensor.contents, field))


class Reader:
    """Reads requests, and remembers their heads."""

    def __init__(self) -> None:
        self._known: dict[bytes, Beginning] = {}
        self._sizes: set[int] = set()

    def read(self, content: memoryview) -> InferRequest:
        """Raises DecodeError."""
        for size in self._sizes:
            known = self._known.get(bytes(content[:size]))
            if known is not None and len(content) == known.whole:
                return InferRequest(known.head, content[size:], None, known)
        message = pb.ModelInferRequest.FromString(content)
        head = _head(message)
        if len(message.raw_input_contents) != 1 or any(tensor.HasField("contents") for tensor in message.inputs):
            return InferRequest(head, None, message)
        raw = message.raw_input_contents[0]
        self._remember(bytes(content), message, head, raw)
        return InferRequest(head, raw)

    def _remember(self, content: bytes, message: pb.ModelInferRequest, head: Head, raw: bytes) -> None:
        field = RAW_TAG + varint(len(raw))
        size = len(content) - len(raw)
        start = size - len(field)
        if size > REMEMBERED_BYTES or head.fault or start < 0 or content[start:] != field + raw:
            return
        if not _is_head_of(content[:start], raw, message):
            return
        if len(self._known) >= REMEMBERED or len(self._sizes | {size}) > SIZES:
            return  # who comes later is parsed; a client that never repeats itself must not push out those that do
        self._known[content[:size]] = Beginning(head, len(content))
        self._sizes.add(size)


def _is_head_of(prefix: bytes, raw: bytes, message: pb.ModelInferRequest) -> bool:
    """Whether the bytes before the tensor are a message of their own, and the request is that and the tensor."""
    try:
        alone = pb.ModelInferRequest.FromString(prefix)
    except DecodeError:
        return False
    alone.raw_input_contents.append(raw)
    return bool(alone == message)


def _head(message: pb.ModelInferRequest) -> Head:
    names = tuple(tensor.name for tensor in message.inputs[:4])
    head = Head(message.model_name, message.model_version, message.id, names)
    try:
        given = {name: _value(parameter) for name, parameter in message.parameters.items()}
        first = message.inputs[0] if names else pb.ModelInferRequest.InferInputTensor()
        return Head(
            model_name=head.model_name,
            model_version=head.model_version,
            request_id=head.request_id,
            inputs=names,
            datatype=first.datatype,
            shape=tuple(first.shape),
            outputs=_outputs(message),
            policy=policy_of(given),
            timeout=timeout_of(given),
        )
    except InvalidRequest as fault:
        return replace(head, fault=str(fault))


def _outputs(message: pb.ModelInferRequest) -> tuple[Output, ...]:
    for output in message.outputs:
        if "classification" in output.parameters:
            raise no_classification(output.name)
    return requested(tuple(output.name for output in message.outputs))


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
