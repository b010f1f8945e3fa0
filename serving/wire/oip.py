"""The Open Inference Protocol, v2, with its statistics and model_configuration extensions: ensembles and members are models.

Its messages and service are those of tritonclient; a process cannot register them twice. What both wires say of a model stands
here as plain dictionaries, which are the JSON of one wire and the fields of the other's messages.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from grpc import ServicerContext
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer, Request
from serving.catalog import Model
from serving.errors import InvalidRequest, Unsupported
from serving.records import Outcome
from serving.wire.codec import TRITON_TYPES, bytes_tensor, rows_from_bytes, rows_from_values
from serving.wire.exchange import GRPC, Serving

PLATFORM = "scrutin"
EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_configuration"]
MICROSECONDS = 1e6

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor of every model: its datatype, its shape behind the batch dimension, and where its values are."""

    name: str
    datatype: str
    dims: Callable[[EnsembleSpec], list[int]]
    values: Callable[[Answer], NDArray[Any] | list[str]]

    def raw(self, answer: Answer) -> bytes:
        values = self.values(answer)
        return bytes_tensor(values) if isinstance(values, list) else values.tobytes()


def _exact(answer: Answer) -> NDArray[np.bool_]:
    return np.full(answer.rows, answer.counted.exact)


OUTPUTS = {
    output.name: output
    for output in (
        Output("label", "BYTES", lambda spec: [], lambda answer: answer.labels),
        Output("label_index", "INT64", lambda spec: [], lambda answer: answer.label_index),
        Output("probabilities", "FP32", lambda spec: [len(spec.labels)], lambda answer: answer.probabilities),
        Output("agreement", "FP32", lambda spec: [], lambda answer: answer.agreement),
        Output("margin", "FP32", lambda spec: [], lambda answer: answer.margin),
        Output("votes", "INT64", lambda spec: [len(spec.members)], lambda answer: answer.votes),
        Output("exact", "BOOL", lambda spec: [], _exact),
    )
}
ALL_OUTPUTS = tuple(OUTPUTS.values())


def requested(names: Sequence[str]) -> tuple[Output, ...]:
    """The outputs of these names; all, if there are none. Raises InvalidRequest."""
    if not names:
        return ALL_OUTPUTS
    if len(names) > len(OUTPUTS):
        raise InvalidRequest(f"found {len(names)} requested outputs, expected at most {len(OUTPUTS)}")
    for name in names:
        if name not in OUTPUTS:
            raise InvalidRequest(f"unknown output {name[:64]!r}, expected one of {', '.join(OUTPUTS)}")
    return tuple(OUTPUTS[name] for name in names)


def check_input_name(spec: EnsembleSpec, names: Sequence[str]) -> None:
    """Raises InvalidRequest unless the one input is named as the manifest does."""
    if len(names) != 1 or names[0] != spec.input.name:
        found = ", ".join(repr(name[:64]) for name in names[:4]) or "none"
        raise InvalidRequest(f"found the inputs {found}, expected one named {spec.input.name!r}")


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


def response_parameters(answer: Answer) -> dict[str, Parameter]:
    counted = answer.counted
    return {
        "ensemble_policy": counted.policy,
        "ensemble_partial": counted.partial,
        "ensemble_members_ok": counted.members(Outcome.OK),
        "ensemble_members_failed": counted.members(Outcome.FAILED),
        "ensemble_members_late": counted.members(Outcome.LATE),
        "ensemble_members_skipped": counted.members(Outcome.SKIPPED),
        "ensemble_queue_us": int(answer.queue_seconds * MICROSECONDS),
        "ensemble_compute_us": int(counted.compute_seconds * MICROSECONDS),
        "ensemble_vote_us": int(counted.vote_seconds * MICROSECONDS),
        "ensemble_device_seconds": answer.device_seconds,
        "ensemble_cost_usd": answer.cost_usd,
        "ensemble_digest": answer.live.digest,
    }


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

    async def ModelInfer(self, request: pb.ModelInferRequest, context: ServicerContext) -> pb.ModelInferResponse:
        outputs = requested([output.name for output in request.outputs])
        remaining = context.time_remaining()
        answer = await self._serving.answer(
            GRPC, request.model_name, lambda arrived: self._request(request, arrived, remaining)
        )
        return encode(request, answer, outputs)

    def _request(self, request: pb.ModelInferRequest, arrived: float, remaining: float | None) -> Request:
        model = self._serving.catalog.find(request.model_name, request.model_version)
        parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
        timeouts = [seconds for seconds in (timeout_of(parameters), remaining) if seconds is not None]
        return Request(
            model=model,
            rows=decode(model.live.spec, request),
            arrived=arrived,
            policy=policy_of(parameters),
            timeout=min(timeouts, default=None),
        )

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
    check_input_name(spec, [tensor.name for tensor in request.inputs])
    tensor = request.inputs[0]
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


def encode(request: pb.ModelInferRequest, answer: Answer, outputs: Sequence[Output]) -> pb.ModelInferResponse:
    """Always raw: Triton's Python client reads nothing else of numbers, and by position."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=answer.live.version, id=request.id)
    for name, value in response_parameters(answer).items():
        parameter = response.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            parameter.string_param = value
    spec = answer.live.spec
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=[answer.rows, *output.dims(spec)])
        response.raw_output_contents.append(output.raw(answer))
    return response
