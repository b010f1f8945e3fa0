"""The Open Inference Protocol, v2, with its statistics and model_configuration extensions: ensembles and members are models.

Its messages and service are those of tritonclient; a process cannot register them twice. What both wires say of a model stands
here as plain dictionaries, which are the JSON of one wire and the fields of the other's messages.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from grpc import ServicerContext
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.aggregator import Answer, Request
from serving.catalog import Model
from serving.errors import Unsupported
from serving.journey import Operation
from serving.receipts import Receipts
from serving.wire import management
from serving.wire.codec import TRITON_TYPES
from serving.wire.columns import (
    ALL_OUTPUTS,
    BATCH_PARAMETERS,
    Column,
    Columns,
    Output,
    lasting_parameters,
    of_batch,
    queue_microseconds,
)
from serving.wire.exchange import GRPC, Serving, sooner
from serving.wire.oip_request import Head, InferRequest, Reader
from serving.wire.protobuf import delimited, parameter, tag, varint
from serving.wire.shared import Lasting, PerBatch
from serving.wire.stamp import Stamp

PLATFORM = "scrutin"
OPERATION = Operation(GRPC, "inference.GRPCInferenceService/ModelInfer")

DOUBLE_BYTES = 8

EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_configuration"]


def server_metadata(serving: Serving) -> dict[str, Any]:
    extensions = EXTENSIONS if serving.versions is None else [*EXTENSIONS, "model_repository"]
    return {"name": "scrutin", "version": version("scrutin"), "extensions": extensions}


def model_metadata(model: Model) -> dict[str, Any]:
    spec = model.live.spec
    given = {"name": spec.input.name, "datatype": spec.input.datatype, "shape": [-1, *spec.input.shape]}
    outputs = [{"name": o.name, "datatype": o.datatype, "shape": [-1, *o.dims(spec)]} for o in ALL_OUTPUTS]
    return {
        "name": model.name,
        "versions": [model.live.version],
        "platform": PLATFORM,
        "inputs": [given],
        "outputs": outputs,
    }


def model_config(model: Model) -> dict[str, Any]:
    spec = model.live.spec
    given = {"name": spec.input.name, "data_type": TRITON_TYPES[spec.input.datatype], "dims": list(spec.input.shape)}
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": spec.limits.max_batch_size,
        "input": [given],
        "output": [
            {"name": o.name, "data_type": TRITON_TYPES[o.datatype], "dims": o.dims(spec) or [1]} for o in ALL_OUTPUTS
        ],
    }


def model_statistics(serving: Serving, models: Iterable[Model]) -> list[dict[str, Any]]:
    return [
        {"name": model.name, "version": model.live.version, **serving.statistics.of(model.name).as_message()}
        for model in models
    ]


def mount(servicer: "InferenceServicer", methods: Any) -> None:
    """Add the service to what takes grpcio's servicers; ModelInfer reads its requests in its own, quicker way."""
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, _Quick(methods))


class _Quick:
    def __init__(self, methods: Any) -> None:
        self._methods = methods

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """The old way of adding; the generated functions use both."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        quick = handlers["ModelInfer"]._replace(request_deserializer=Reader().read)
        self._methods.add_registered_method_handlers(service, {**handlers, "ModelInfer": quick})


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The gRPC side."""

    def __init__(self, serving: Serving, ready: Callable[[], bool]) -> None:
        self._serving = serving
        self._ready = ready
        self._encoder = Encoder(serving.receipts)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: ServicerContext) -> pb.ModelReadyResponse:
        model = self._serving.catalog.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=model.live.ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**server_metadata(self._serving))

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: ServicerContext
    ) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(**model_metadata(self._serving.catalog.find(request.name, request.version)))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: ServicerContext) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(self._serving.catalog.find(request.name, request.version)))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: ServicerContext
    ) -> pb.ModelStatisticsResponse:
        catalog = self._serving.catalog
        models = [catalog.find(request.name, request.version)] if request.name else catalog.models.values()
        return pb.ModelStatisticsResponse(model_stats=model_statistics(self._serving, models))

    async def ModelInfer(self, request: InferRequest, context: ServicerContext) -> bytes:
        """The answer, serialised, to a request that `oip_request.py` has read."""
        head, remaining = request.head, context.time_remaining()

        def decode(arrived: float) -> Request:
            model = self._serving.catalog.find(head.model_name, head.model_version)
            timeout = remaining if head.timeout is None else sooner(head.timeout, remaining)
            return Request(model, request.rows(model.live.spec), arrived, head.policy, timeout, head.request_id)

        answer = await self._serving.answer(OPERATION, head.model_name, decode, context.caller)
        return self._encoder.encode(head, answer)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _no_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=management.index(self._serving, request.ready))

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        _no_repository(request.repository_name)
        await management.load(self._serving, request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _no_repository(request.repository_name)
        await management.unload(self._serving, request.model_name, request.parameters)
        return pb.RepositoryModelUnloadResponse()


def _no_repository(name: str) -> None:
    if name:
        raise Unsupported(f"found the repository {name[:64]!r}, expected none to be named")


@dataclass(slots=True)
class _Sheet:
    """What the answers of a batch that are alike have in common. `common` stands before what is each one's own.

    `single`: what stands behind that, by row, where each row is an answer of its own.
    """

    common: bytes
    columns: list[Column]
    single: list[bytes] | None


class Encoder:
    """Answers as serialised ModelInferResponses: raw tensors always, since Triton's Python client reads nothing else of numbers.

    What answers have in common, those of all batches and those of one, is serialised once. Protobuf reads concatenated
    messages as one message, so what differs, the id, the time in the queue, the receipt and the rows, follows as another one.
    """

    def __init__(self, receipts: Receipts | None) -> None:
        self._stamp = Stamp(receipts)
        self._columns = Columns()
        self._sheets: PerBatch[_Sheet] = PerBatch()
        self._lasting = Lasting()

    def encode(self, head: Head, answer: Answer) -> bytes:
        sheets, key = self._sheets.of(answer.counted), (head.model_name, answer.alike, head.outputs)
        sheet = sheets.get(key)
        if sheet is None:
            sheet = sheets[key] = self._sheet(head.model_name, answer, head.outputs)
        queue = varint(queue_microseconds(answer))
        own_id = delimited(ID, head.request_id.encode()) if head.request_id else b""
        behind = sheet.single[answer.start] if sheet.single is not None else self._behind(sheet, answer)
        return b"".join([sheet.common, BEFORE_QUEUE_US[len(queue)], queue, own_id, behind])

    def _sheet(self, model_name: str, answer: Answer, outputs: tuple[Output, ...]) -> _Sheet:
        lasting = self._lasting.get(answer, (model_name, outputs), lambda: _lasting(model_name, answer, outputs))
        columns, single = self._columns.of(answer, outputs), None
        if answer.rows == 1 and answer.counted.spent.alike:
            fields = [column.fields(RAW_OUTPUT_CONTENTS) for column in columns]
            if receipts := self._stamp.of_rows(answer):
                before = _before_receipt(len(receipts[0]))
                fields.insert(0, [before + receipt for receipt in receipts])
            single = list(map(b"".join, zip(*fields, strict=True)))
        return _Sheet(lasting + _of_batch(answer), columns, single)

    def _behind(self, sheet: _Sheet, answer: Answer) -> bytes:
        receipt, start, stop = self._stamp.receipt(answer), answer.start, answer.stop
        fields = [_before_receipt(len(receipt)), receipt] if receipt else []
        fields += [delimited(RAW_OUTPUT_CONTENTS, column.raw(start, stop)) for column in sheet.columns]
        return b"".join(fields)


def _lasting(model_name: str, answer: Answer, outputs: Sequence[Output]) -> bytes:
    response = pb.ModelInferResponse(model_name=model_name, model_version=answer.live.version)
    for output in outputs:
        shape = [answer.rows, *output.dims(answer.live.spec)]
        response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    parameters = [parameter(PARAMETERS, name.encode(), value) for name, value in lasting_parameters(answer).items()]
    return b"".join([response.SerializeToString(), *parameters])


def _of_batch(answer: Answer) -> bytes:
    compute, vote, device_seconds, cost_usd = of_batch(answer)
    compute_us, vote_us = varint(compute), varint(vote)
    doubles = DOUBLES.pack(BEFORE_DEVICE_SECONDS, device_seconds, BEFORE_COST_USD, cost_usd)
    return b"".join([BEFORE_COMPUTE_US[len(compute_us)], compute_us, BEFORE_VOTE_US[len(vote_us)], vote_us, doubles])


ID, PARAMETERS, RAW_OUTPUT_CONTENTS = (
    tag(pb.ModelInferResponse.DESCRIPTOR.fields_by_name[name].number)
    for name in ("id", "parameters", "raw_output_contents")
)


def _before_integer(name: str) -> list[bytes]:
    """What stands before a parameter's value, by the bytes that it takes."""
    return [parameter(PARAMETERS, name.encode(), 1 << 7 * size - 1)[:-size] if size else b"" for size in range(10)]


COMPUTE_US, VOTE_US, DEVICE_SECONDS, COST_USD = BATCH_PARAMETERS
BEFORE_QUEUE_US, BEFORE_COMPUTE_US, BEFORE_VOTE_US = map(_before_integer, ("ensemble_queue_us", COMPUTE_US, VOTE_US))
BEFORE_DEVICE_SECONDS, BEFORE_COST_USD = (
    parameter(PARAMETERS, name.encode(), 0.0)[:-DOUBLE_BYTES] for name in (DEVICE_SECONDS, COST_USD)
)
DOUBLES = struct.Struct(f"<{len(BEFORE_DEVICE_SECONDS)}sd{len(BEFORE_COST_USD)}sd")


@lru_cache(256)
def _before_receipt(size: int) -> bytes:
    """What stands before a receipt of so many characters."""
    return parameter(PARAMETERS, b"ensemble_receipt", "A" * size)[:-size]
