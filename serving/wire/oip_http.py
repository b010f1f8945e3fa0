"""The Open Inference Protocol over HTTP: JSON, with tensors as JSON or as binary behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer, Request
from serving.errors import InvalidRequest
from serving.journey import Caller, Operation
from serving.wire.codec import flattened, rows_from_bytes, rows_from_values
from serving.wire.columns import (
    BATCH_PARAMETERS,
    Column,
    Columns,
    Output,
    lasting_parameters,
    no_classification,
    of_batch,
    policy_of,
    queue_microseconds,
    requested,
    timeout_of,
    wrong_inputs,
)
from serving.wire.exchange import HTTP, Serving
from serving.wire.shared import Lasting, PerBatch
from serving.wire.stamp import Stamp

OPERATION = Operation(HTTP, "POST /v2/models/{model}/infer")

REMEMBERED_BYTES = 4096
"""Heads up to this size are remembered when tensors are binary: then a client sends the very same one with each request."""


class Form:
    """The outputs of an answer, each with whether it goes out as binary. There is one object a form, see `_form`.

    `texts`: the places of outputs that are texts, which take unlike numbers of bytes.
    """

    __slots__ = ("all_binary", "binary", "outputs", "texts")

    def __init__(self, outputs: tuple[Output, ...], binary: tuple[bool, ...]) -> None:
        self.outputs = outputs
        self.binary = binary
        self.all_binary = all(binary)
        self.texts = tuple([place for place, output in enumerate(outputs) if output.datatype == "BYTES"])


@lru_cache(256)
def _form(outputs: tuple[Output, ...], binary: tuple[bool, ...]) -> Form:
    return Form(outputs, binary)


@dataclass(slots=True, eq=False)
class JsonHead:
    """What the JSON of a request says. `binary_size`: of the tensor behind it, None when `data` has the values.

    `fits`: the manifest that its last binary tensor fitted, so that the next one does too. `own_id`: the id as it goes back.
    """

    request_id: str
    names: tuple[str, ...]
    datatype: str
    shape: tuple[int, ...]
    binary_size: int | None
    data: Any
    policy: str
    timeout: float | None
    form: Form
    own_id: bytes = field(init=False)
    fits: EnsembleSpec | None = None

    def __post_init__(self) -> None:
        self.own_id = b',"id":' + orjson.dumps(self.request_id) if self.request_id else b""


@dataclass(slots=True)
class HttpAnswer:
    """The body of an answer. `json_bytes`: how much of it is JSON, None where all of it is."""

    body: bytes
    json_bytes: int | None


@dataclass(slots=True)
class _Sheet:
    """What the answers of a batch that are alike have in common. `common`: the JSON up to the parameters that are each one's own.

    `single`: the binary tensors of each row, where each row is an answer of its own; `receipts`: likewise, if all rows fared alike.
    """

    common: bytes
    columns: list[Column]
    single: list[bytes] | None
    receipts: list[bytes]


class Inference:
    """`POST …/infer`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._stamp = Stamp(serving.receipts)
        self._columns = Columns()
        self._sheets: PerBatch[_Sheet] = PerBatch()
        self._lasting = Lasting()

    async def infer(
        self, name: str, version: str, body: bytes, header_length: str, caller: Caller | None
    ) -> HttpAnswer:
        """Answer a request. `header_length`: the text of Inference-Header-Content-Length, "" without one. Raises a Fault."""
        head: JsonHead | None = None

        def decode(arrived: float) -> Request:
            nonlocal head
            model = self._serving.catalog.find(name, version)
            head, binary = _split(model.live.spec, body, header_length)
            return Request(
                model, _rows(model.live.spec, head, binary), arrived, head.policy, head.timeout, head.request_id
            )

        answer = await self._serving.answer(OPERATION, name, decode, caller)
        assert head is not None  # noqa: S101  an answer means that the request was decoded
        return self._encode(name, head, answer)

    def _encode(self, name: str, head: JsonHead, answer: Answer) -> HttpAnswer:
        sheet = self._sheet_of(name, head, answer)
        own = b',"ensemble_queue_us":%d' % queue_microseconds(answer)
        receipt = sheet.receipts[answer.start] if sheet.receipts else self._stamp.receipt(answer)
        own += b',"ensemble_receipt":"%b"}' % receipt if receipt else b"}"
        text = b"".join([sheet.common, own, head.own_id, b"}"])
        if sheet.single is not None:
            return HttpAnswer(text + sheet.single[answer.start], len(text))
        binary = [
            column.raw(answer.start, answer.stop)
            for column, as_binary in zip(sheet.columns, head.form.binary, strict=True)
            if as_binary
        ]
        return HttpAnswer(b"".join([text, *binary]), len(text) if binary else None)

    def _sheet_of(self, name: str, head: JsonHead, answer: Answer) -> _Sheet:
        """Requests of a batch share it when they have as many rows, all binary, and texts of one length."""
        form = head.form
        if not form.all_binary:
            columns = self._columns.of(answer, form.outputs)
            return _Sheet(_lasting(name, form, columns, answer) + _of_batch(answer), columns, None, [])
        sizes = self._sizes(form, answer) if form.texts else ()
        sheets, key = self._sheets.of(answer.counted), (name, answer.alike, form, sizes)
        sheet = sheets.get(key)
        if sheet is None:
            sheet = sheets[key] = self._sheet(name, form, answer, sizes)
        return sheet

    def _sizes(self, form: Form, answer: Answer) -> tuple[int, ...]:
        """Of the texts, in bytes."""
        columns = self._columns.of(answer, form.outputs)
        return tuple([len(columns[place].raw(answer.start, answer.stop)) for place in form.texts])

    def _sheet(self, name: str, form: Form, answer: Answer, sizes: tuple[int, ...]) -> _Sheet:
        columns = self._columns.of(answer, form.outputs)
        lasting = self._lasting.get(answer, (name, form, sizes), lambda: _lasting(name, form, columns, answer))
        if answer.rows != 1:
            return _Sheet(lasting + _of_batch(answer), columns, None, [])
        single = list(map(b"".join, zip(*[column.rows() for column in columns], strict=True)))
        receipts = self._stamp.of_rows(answer) if answer.counted.spent.alike else []
        return _Sheet(lasting + _of_batch(answer), columns, single, receipts)


def _lasting(name: str, form: Form, columns: Sequence[Column], answer: Answer) -> bytes:
    """The JSON up to the parameters that differ from batch to batch."""
    content = {
        "model_name": name,
        "model_version": answer.live.version,
        "outputs": [
            _tensor(output, as_binary, column, answer)
            for output, as_binary, column in zip(form.outputs, form.binary, columns, strict=True)
        ],
        "parameters": lasting_parameters(answer),
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY).removesuffix(b"}}")


def _of_batch(answer: Answer) -> bytes:
    """The parameters that differ from batch to batch, behind others."""
    return b"," + orjson.dumps(dict(zip(BATCH_PARAMETERS, of_batch(answer), strict=True)))[1:-1]


def _tensor(output: Output, as_binary: bool, column: Column, answer: Answer) -> dict[str, Any]:
    tensor = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": [answer.rows, *output.dims(answer.live.spec)],
    }
    if as_binary:
        size = len(column.raw(answer.start, answer.stop))
        return {**tensor, "parameters": {"binary_data_size": size}}
    return {**tensor, "data": column.values(answer.start, answer.stop)}


def _split(spec: EnsembleSpec, body: bytes, header_length: str) -> tuple[JsonHead, bytes]:
    """What the JSON says, and the bytes behind it. Raises InvalidRequest."""
    if not header_length:
        return _head(body), b""
    digits = len(header_length) <= 10 and header_length.isascii() and header_length.isdigit()
    length = int(header_length) if digits else len(body) + 1
    if length > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {header_length[:20]!r}, expected a number up to {len(body)}, "
            "the body's size"
        )
    if length == 0:  # the whole body is one row of the one input
        shape = (1, *spec.input.shape)
        outputs = requested(())
        form = _form(outputs, (True,) * len(outputs))
        return JsonHead("", (spec.input.name,), spec.input.datatype, shape, len(body), None, "", None, form), body
    text = body[:length]
    return (_remembered_head if length <= REMEMBERED_BYTES else _head)(text), body[length:]


def _head(text: bytes) -> JsonHead:
    """Raises InvalidRequest."""
    content = json_object(text)
    given = mapping(content.get("parameters", {}), "parameters")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidRequest("inputs: expected a list of one tensor")
    tensor = mapping(inputs[0], "inputs")
    size = mapping(tensor.get("parameters", {}), "parameters").get("binary_data_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or "data" in tensor):
        raise InvalidRequest("binary_data_size: expected a whole number, and no data beside it")
    return JsonHead(
        request_id=_text(content.get("id", ""), "id"),
        names=tuple(_text(mapping(each, "inputs").get("name", ""), "name") for each in inputs[:4]),
        datatype=_text(tensor.get("datatype", ""), "datatype"),
        shape=_shape(tensor.get("shape")),
        binary_size=size,
        data=tensor.get("data"),
        policy=policy_of(given),
        timeout=timeout_of(given),
        form=_wanted(content.get("outputs") or [], _flag(given.get("binary_data_output", False), "binary_data_output")),
    )


_remembered_head = lru_cache(256)(_head)


def _rows(spec: EnsembleSpec, head: JsonHead, binary: bytes) -> NDArray[Any]:
    if head.fits is spec and len(binary) == head.binary_size:
        return np.ndarray(head.shape, spec.input.dtype, binary)
    rows = _checked(spec, head, binary)
    if head.binary_size is not None and head.datatype != "BOOL":  # of which each byte has to be looked at
        head.fits = spec
    return rows


def _checked(spec: EnsembleSpec, head: JsonHead, binary: bytes) -> NDArray[Any]:
    if head.names != (spec.input.name,):
        raise wrong_inputs(spec, head.names)
    if (head.binary_size or 0) != len(binary):
        raise InvalidRequest(
            f"input {spec.input.name!r}: found {len(binary)} bytes behind the JSON, "
            f"expected {head.binary_size or 0}, its binary_data_size"
        )
    if head.binary_size is not None:
        return rows_from_bytes(spec.input, head.datatype, head.shape, binary)
    values = flattened(head.data, spec.limits.max_batch_size * spec.input.row_bytes + 1)
    return rows_from_values(spec.input, head.datatype, head.shape, values)


def json_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"found no JSON, expected an object: {str(error)[:100]}") from None
    return mapping(content, "the body")


def mapping(content: Any, what: str) -> dict[str, Any]:
    """Raises InvalidRequest."""
    if not isinstance(content, dict):
        raise InvalidRequest(f"{what}: found {type(content).__name__}, expected an object")
    return content


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what}: found {type(value).__name__}, expected a string")
    return value


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(isinstance(d, int) and not isinstance(d, bool) for d in shape):
        raise InvalidRequest("shape: expected a list of whole numbers")
    return tuple(shape)


def _wanted(outputs: Any, binary: bool) -> Form:
    if not isinstance(outputs, list):
        raise InvalidRequest("outputs: expected a list")
    outputs = [mapping(output, "outputs") for output in outputs]
    named = requested(tuple(_text(output.get("name", ""), "outputs") for output in outputs))
    flags = [_binary(output, binary) for output in outputs]
    return _form(named, tuple(flags or [binary] * len(named)))


def _binary(output: dict[str, Any], otherwise: bool) -> bool:
    given = mapping(output.get("parameters", {}), "parameters")
    if "classification" in given:
        raise no_classification(str(output.get("name")))
    return _flag(given.get("binary_data", otherwise), "binary_data")


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what}: found {type(value).__name__}, expected true or false")
    return value
