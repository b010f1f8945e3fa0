"""The Open Inference Protocol over gRPC, of our servers and others. Its messages are those of tritonclient."""

import ssl
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, Answer, Description, Raw, TargetError
from loadtest.targets.datatypes import DTYPES
from loadtest.targets.grpc_calls import ask
from loadtest.targets.oip import Tensor, classes, described
from loadtest.targets.predict import little_endian

SERVICE = "/inference.GRPCInferenceService/"
MODEL_INFER = SERVICE + "ModelInfer"


async def describe(address: Address, tls: ssl.SSLContext | None, output: str = "") -> Description:
    """Raises TargetError."""
    if not address.name:
        raise TargetError(f"{address.place}: found no model in the URL, expected {address.place}/MODEL")
    request = pb.ModelMetadataRequest(name=address.name).SerializeToString()
    metadata = await _asked(address, tls, "ModelMetadata", request, pb.ModelMetadataResponse)
    ready = await _asked(address, tls, "ModelReady", request, pb.ModelReadyResponse)
    if not ready.ready:
        raise TargetError(f"{address.place}: found that {address.name} is not ready, expected a model that is")
    inputs, outputs = (
        [Tensor(each.name, each.datatype, tuple(each.shape)) for each in tensors]
        for tensors in (metadata.inputs, metadata.outputs)
    )
    return described(address.place, address.name, inputs, outputs, output, ",".join(metadata.versions))


async def _asked(address: Address, tls: ssl.SSLContext | None, method: str, request: bytes, kind: Any) -> Any:
    raw = await ask(address, tls, SERVICE + method, request)
    if raw.code != OK:
        raise TargetError(
            f"{address.place}: found {raw.code} ({raw.message}) from {method}, expected {SERVICE[1:-1]} with the model {address.name}"
        )
    try:
        return kind.FromString(raw.body)
    except DecodeError:
        raise TargetError(f"{address.place}: found no {kind.__name__}, expected {SERVICE[1:-1]}") from None


class OipGrpcCodec:
    """Tensors go and come as raw bytes."""

    def __init__(self, description: Description) -> None:
        self._description = description

    def head(self, policy: str) -> bytes:
        request = pb.ModelInferRequest(model_name=self._description.name)
        if policy:
            request.parameters["policy"].string_param = policy
        return bytes(request.SerializeToString())

    def tail(self, rows: NDArray[Any]) -> bytes:
        described = self._description
        shape = rows.shape if described.batched else rows.shape[1:]
        request = pb.ModelInferRequest(raw_input_contents=[little_endian(rows)])
        request.inputs.add(name=described.input_name, datatype=described.datatype, shape=shape)
        return bytes(request.SerializeToString())

    def decode(self, raw: Raw) -> Answer:
        answer = pb.ModelInferResponse.FromString(raw.body)
        values = answer.parameters
        return Answer(
            self._labels(answer),
            values["ensemble_partial"].bool_param if "ensemble_partial" in values else False,
            "ensemble_brownout_level" in values and values["ensemble_brownout_level"].int64_param > 0,
            values["ensemble_device_seconds"].double_param if "ensemble_device_seconds" in values else 0.0,
            values["ensemble_cost_usd"].double_param if "ensemble_cost_usd" in values else 0.0,
            values["ensemble_policy"].string_param if "ensemble_policy" in values else "",
        )

    def _labels(self, answer: pb.ModelInferResponse) -> list[int]:
        for place, output in enumerate(answer.outputs):
            if output.name == self._description.output:
                rows = output.shape[0] if self._description.batched else 1
                return classes(self._values(answer, place, output), rows)
        raise ValueError(f"found no output {self._description.output}")

    @staticmethod
    def _values(answer: Any, place: int, output: Any) -> NDArray[Any]:
        if answer.raw_output_contents:
            return np.frombuffer(answer.raw_output_contents[place], DTYPES[output.datatype])
        contents = output.contents
        for name in (
            "fp32_contents",
            "int64_contents",
            "fp64_contents",
            "int_contents",
            "uint_contents",
            "uint64_contents",
        ):
            if values := getattr(contents, name):
                return np.array(values)
        raise ValueError("found an output without contents")
