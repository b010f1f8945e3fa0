"""The Open Inference Protocol, v2, with its statistics and model_configuration extensions: ensembles and members are models.

Its messages and service are those of tritonclient; a process cannot register them twice. What both wires say of a model stands
here as plain dictionaries, which are the JSON of one wire and the fields of the other's messages.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

from grpc import ServicerContext
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer, Request
from serving.catalog import Model
from serving.errors import InvalidRequest, Unsupported
from serving.records import Counted
from serving.wire.codec import TRITON_TYPES, rows_from_bytes, rows_from_values
from serving.wire.columns import (
    ALL_OUTPUTS,
    MICROSECONDS,
    Columns,
    Output,
    parameters,
    queue_microseconds,
    requested,
)
from serving.wire.exchange import GRPC, Serving, sooner

PLATFORM = "scrutin"
EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_configuration"]


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


def server_metadata() -> dict[str, Any]:
    return {"name": "scrutin", "version": version("scrutin"), "extensions": EXTENSIONS}


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


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The gRPC side."""

    def __init__(self, serving: Serving, ready: Callable[[], bool]) -> None:
        self._serving = serving
        self._ready = ready
        self._encoder = Encoder()

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
        return pb.ServerMetadataResponse(**server_metadata())

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

    async def ModelInfer(self, request: pb.ModelInferRequest, context: ServicerContext) -> bytes:
        """The answer, serialised."""
        remaining = context.time_remaining()
        answer = await self._serving.answer(
            GRPC, request.model_name, lambda arrived: self._request(request, arrived, remaining)
        )
        return self._encoder.encode(request, answer, outputs_of(request))

    def _request(self, request: pb.ModelInferRequest, arrived: float, remaining: float | None) -> Request:
        model = self._serving.catalog.find(request.model_name, request.model_version)
        outputs_of(request)
        rows = decode(model.live.spec, request)
        if not request.parameters:
            return Request(model, rows, arrived, "", remaining)
        given = {name: _value(parameter) for name, parameter in request.parameters.items()}
        return Request(model, rows, arrived, policy_of(given), sooner(timeout_of(given), remaining))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: ServicerContext
    ) -> pb.RepositoryIndexResponse:
        raise Unsupported("repository management is off")

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        raise Unsupported("repository management is off")

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        raise Unsupported("repository management is off")


def outputs_of(request: pb.ModelInferRequest) -> tuple[Output, ...]:
    """Raises InvalidRequest."""
    for output in request.outputs:
        if "classification" in output.parameters:
            raise no_classification(output.name)
    return requested(tuple([output.name for output in request.outputs]))


def no_classification(name: str) -> InvalidRequest:
    """For an output asked for in a form that is not announced."""
    return InvalidRequest(f"output {name[:64]!r}: found the parameter classification, which is not offered")


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


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


def decode(spec: EnsembleSpec, request: pb.ModelInferRequest) -> NDArray[Any]:
    """The rows of a request, raw or typed. Raises InvalidRequest."""
    inputs = request.inputs
    if len(inputs) != 1 or inputs[0].name != spec.input.name:
        raise wrong_inputs(spec, [tensor.name for tensor in inputs[:4]])
    tensor = inputs[0]
    typed = tensor.HasField("contents")
    raw = len(request.raw_input_contents)
    if raw:
        if typed:
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents "
                f"for {tensor.name!r}: found both, expected one"
            )
        if raw != 1:
            raise InvalidRequest(f"found {raw} raw_input_contents, expected one for the one input")
        return rows_from_bytes(spec.input, tensor.datatype, tensor.shape, request.raw_input_contents[0])
    field = CONTENTS.get(spec.input.datatype)
    if field is None:
        raise InvalidRequest(
            f"input {tensor.name!r}: found typed contents, expected {spec.input.datatype} as raw_input_contents"
        )
    return rows_from_values(spec.input, tensor.datatype, tensor.shape, getattr(tensor.contents, field))


class Encoder:
    """Answers as serialised ModelInferResponses: raw tensors always, since Triton's Python client reads nothing else of numbers.

    What the answers of a batch have in common is serialised once. Protobuf reads concatenated messages as one message, so what
    differs, the id, the time in the queue and the rows, follows as a second one.
    """

    def __init__(self) -> None:
        self._columns = Columns()
        self._counted: Counted | None = None
        self._common: dict[tuple[str, int, tuple[Output, ...]], bytes] = {}

    def encode(self, request: pb.ModelInferRequest, answer: Answer, outputs: tuple[Output, ...]) -> bytes:
        start, stop = answer.start, answer.stop
        own = pb.ModelInferResponse(
            id=request.id,
            raw_output_contents=[column.raw(start, stop) for column in self._columns.of(answer, outputs)],
        )
        own.parameters["ensemble_queue_us"].int64_param = queue_microseconds(answer)
        serialised: bytes = own.SerializeToString()
        return self._common_part(request.model_name, answer, outputs) + serialised

    def _common_part(self, model_name: str, answer: Answer, outputs: tuple[Output, ...]) -> bytes:
        if self._counted is not answer.counted:
            self._counted, self._common = answer.counted, {}
        key = (model_name, answer.rows, outputs)
        common = self._common.get(key)
        if common is None:
            common = self._common[key] = _common(model_name, answer, outputs).SerializeToString()
        return common


def _common(model_name: str, answer: Answer, outputs: Sequence[Output]) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model_name, model_version=answer.live.version)
    for name, value in parameters(answer).items():
        setattr(response.parameters[name], FIELDS[type(value)], value)
    for output in outputs:
        shape = [answer.rows, *output.dims(answer.live.spec)]
        response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    return response


FIELDS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
