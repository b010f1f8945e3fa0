"""`scrutin.v1.EnsembleService`: single calls and the stream."""

import ssl
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, Answer, Description, Raw, TargetError
from loadtest.targets.grpc_calls import CODES, ask
from scrutin.v1 import ensemble_pb2 as pb

SERVICE = "/scrutin.v1.EnsembleService/"
PREDICT, PREDICT_STREAM = SERVICE + "Predict", SERVICE + "PredictStream"

BROWN_OUT = "brownout_level" in pb.PredictResponse.DESCRIPTOR.fields_by_name
"""Whether answers can say that the server gave less than was asked for, as it had too much to do."""


async def describe(address: Address, tls: ssl.SSLContext | None) -> Description:
    """The ensemble that the address names, or the only one there is. Raises TargetError."""
    raw = await ask(address, tls, SERVICE + "ListEnsembles", b"")
    if raw.code != OK:
        raise TargetError(f"{address.place}: found {raw.code} ({raw.message}), expected {SERVICE[1:-1]}")
    try:
        found = {each.name: each for each in pb.ListEnsemblesResponse.FromString(raw.body).ensembles}
    except DecodeError:
        raise TargetError(f"{address.place}: found no list of ensembles, expected {SERVICE[1:-1]}") from None
    name = address.name or (next(iter(found)) if len(found) == 1 else "")
    if name not in found:
        raise TargetError(
            f"{address.place}: found the ensembles {', '.join(found) or 'none'}, expected {address.name or 'the URL to name one'}"
        )
    return _description(found[name])


def _description(ensemble: pb.Ensemble) -> Description:
    return Description(
        name=ensemble.name,
        input_name="",
        datatype=ensemble.datatype,
        shape=tuple(ensemble.shape),
        labels=tuple(ensemble.labels),
        members=tuple(member.name for member in ensemble.members),
        policies=tuple(ensemble.policies),
        default_policy=ensemble.default_policy,
        max_batch_size=ensemble.max_batch_size,
        ready=ensemble.ready,
        version=ensemble.version,
        digest=ensemble.digest,
    )


class PredictCodec:
    """Concatenated messages are one message to protobuf, so a head and a tail are encoded apart. `deadline`: seconds, 0 for none."""

    def __init__(self, description: Description, deadline: float = 0.0) -> None:
        self._description, self._deadline = description, deadline

    def head(self, policy: str) -> bytes:
        timeout = round(self._deadline * 1e6)
        request = pb.PredictRequest(ensemble=self._description.name, policy=policy, timeout_microseconds=timeout)
        return bytes(request.SerializeToString())

    def tail(self, rows: NDArray[Any]) -> bytes:
        tensor = pb.Tensor(datatype=self._description.datatype, shape=rows.shape, data=little_endian(rows))
        return bytes(pb.PredictRequest(tensor=tensor).SerializeToString())

    def decode(self, raw: Raw) -> Answer:
        answer = raw.parsed or pb.PredictResponse.FromString(raw.body)
        if answer.HasField("error"):
            return Answer([], code=CODES[answer.error.code], message=answer.error.message)
        return Answer(
            list(answer.label_index),
            answer.partial,
            BROWN_OUT and answer.brownout_level > 0,
            answer.device_seconds,
            answer.cost_usd,
            answer.policy,
        )


def identify(message: bytes) -> tuple[str, pb.PredictResponse]:
    """Whose answer a message on the stream is."""
    parsed = pb.PredictResponse.FromString(message)
    return parsed.id, parsed


def little_endian(rows: NDArray[Any]) -> bytes:
    """Row-major, as every protocol here has it."""
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes()
