"""The Open Inference Protocol over HTTP: JSON, with tensors as JSON or as binary behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from numpy.typing import NDArray

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer, Request
from serving.catalog import Model
from serving.errors import InvalidRequest
from serving.wire import oip
from serving.wire.codec import flattened, rows_from_bytes, rows_from_values
from serving.wire.columns import Columns, Output, parameters, queue_microseconds, requested
from serving.wire.exchange import HTTP, Serving

__all__ = ["HttpAnswer", "Model", "infer", "oip"]

COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The body of an answer. `json_bytes`: how much of it is JSON, None where all of it is."""

    body: bytes
    json_bytes: int | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The JSON part of a request, and the binary tensors behind it."""

    content: dict[str, Any]
    binary: bytes

    @property
    def parameters(self) -> dict[str, Any]:
        return mapping(self.content.get("parameters", {}), "parameters")


async def infer(serving: Serving, name: str, version: str, body: bytes, header_length: str) -> HttpAnswer:
    """Answer `POST …/infer`. `header_length`: the text of Inference-Header-Content-Length, "" without one. Raises a Fault."""
    wanted: list[tuple[Output, bool]] = []
    request_id = ""

    def decode(arrived: float) -> Request:
        nonlocal request_id
        model = serving.catalog.find(name, version)
        envelope = _envelope(model.live.spec, body, header_length)
        request_id = _text(envelope.content.get("id", ""), "id")
        wanted.extend(_wanted(envelope))
        return Request(
            model=model,
            rows=_rows(model.live.spec, envelope),
            arrived=arrived,
            policy=oip.policy_of(envelope.parameters),
            timeout=oip.timeout_of(envelope.parameters),
        )

    answer = await serving.answer(HTTP, name, decode)
    return _encode(name, request_id, answer, wanted)


def _envelope(spec: EnsembleSpec, body: bytes, header_length: str) -> Envelope:
    if not header_length:
        return Envelope(json_object(body), b"")
    if not header_length.isdigit() or int(header_length) > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {header_length[:20]!r}, expected a number up to {len(body)}, the body's size"
        )
    length = int(header_length)
    if length == 0:  # the whole body is one row of the one input
        size = {"binary_data_size": len(body)}
        shape = [1, *spec.input.shape]
        only = {"name": spec.input.name, "datatype": spec.input.datatype, "shape": shape, "parameters": size}
        return Envelope({"inputs": [only], "parameters": {"binary_data_output": True}}, body)
    return Envelope(json_object(body[:length]), body[length:])


def json_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"found no JSON, expected an object: {str(error)[:100]}") from None
    return mapping(content, "the body")


def mapping(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InvalidRequest(f"{what}: found {type(content).__name__}, expected an object")
    return content


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what}: found {type(value).__name__}, expected a string")
    return value


def _rows(spec: EnsembleSpec, envelope: Envelope) -> NDArray[Any]:
    inputs = envelope.content.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidRequest("inputs: expected a list of one tensor")
    tensors = [mapping(tensor, "inputs") for tensor in inputs[:4]]
    if len(inputs) != 1 or tensors[0].get("name") != spec.input.name:
        raise oip.wrong_inputs(spec, [str(tensor.get("name", "")) for tensor in tensors])
    tensor = tensors[0]
    datatype, shape = _text(tensor.get("datatype", ""), "datatype"), _shape(tensor.get("shape"))
    size = mapping(tensor.get("parameters", {}), "parameters").get("binary_data_size")
    if size is not None:
        if "data" in tensor:
            raise InvalidRequest(f"input {spec.input.name!r}: found data and binary_data_size, expected one of them")
        return _binary_rows(spec, datatype, shape, size, envelope.binary)
    if envelope.binary:
        raise InvalidRequest(
            f"found {len(envelope.binary)} bytes behind the JSON that no input claims by binary_data_size"
        )
    values = flattened(tensor.get("data"), spec.limits.max_batch_size * spec.input.row_bytes + 1)
    return rows_from_values(spec.input, datatype, shape, values)


def _binary_rows(spec: EnsembleSpec, datatype: str, shape: list[int], size: Any, binary: bytes) -> NDArray[Any]:
    if isinstance(size, bool) or size != len(binary):
        raise InvalidRequest(
            f"input {spec.input.name!r}: found {len(binary)} bytes behind the JSON, expected binary_data_size, {str(size)[:20]}"
        )
    return rows_from_bytes(spec.input, datatype, shape, binary)


def _shape(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not all(isinstance(d, int) and not isinstance(d, bool) for d in shape):
        raise InvalidRequest("shape: expected a list of whole numbers")
    return shape


def _wanted(envelope: Envelope) -> list[tuple[Output, bool]]:
    """The outputs, each with whether it goes out as binary."""
    outputs = envelope.content.get("outputs") or []
    if not isinstance(outputs, list):
        raise InvalidRequest("outputs: expected a list")
    outputs = [mapping(output, "outputs") for output in outputs]
    binary = bool(envelope.parameters.get("binary_data_output", False))
    flags = [mapping(output.get("parameters", {}), "parameters").get("binary_data", binary) for output in outputs]
    named = requested([_text(output.get("name", ""), "outputs") for output in outputs])
    return list(zip(named, flags or [binary] * len(named), strict=True))


def _encode(name: str, request_id: str, answer: Answer, wanted: Sequence[tuple[Output, bool]]) -> HttpAnswer:
    outputs, binary = [], []
    for column, (output, as_binary) in zip(COLUMNS.of(answer, [o for o, _ in wanted]), wanted, strict=True):
        shape = [answer.rows, *output.dims(answer.live.spec)]
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        if as_binary:
            binary.append(column.raw(answer.start, answer.stop))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = column.values(answer.start, answer.stop)
        outputs.append(tensor)
    content = {
        "model_name": name,
        "model_version": answer.live.version,
        "parameters": {**parameters(answer), "ensemble_queue_us": queue_microseconds(answer)},
        "outputs": outputs,
    }
    if request_id:
        content["id"] = request_id
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return HttpAnswer(b"".join([head, *binary]), len(head) if binary else None)
