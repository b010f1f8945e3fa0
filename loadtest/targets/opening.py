"""From a URL and options to what encodes, sends and decodes."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from loadtest.targets import oip_grpc, oip_http, predict, v1_http
from loadtest.targets.address import Address, Protocol
from loadtest.targets.answers import Caller, Codec, Description, Done, TargetError
from loadtest.targets.grpc_calls import GrpcOptions, UnaryCaller
from loadtest.targets.grpc_stream import StreamCaller
from loadtest.targets.http1 import HttpCaller, HttpOptions


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. `ca`: whom to trust, None for the system's. `certificate` and `key`: who we are, where the server asks."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How to ask. `deadline`: seconds a request may take, 0 for the server's own limit."""

    stream: bool = False
    """Over `PredictStream` instead of single calls."""
    json_tensors: bool = False
    """Tensors in the JSON instead of behind it, over OIP and HTTP."""
    output: str = ""
    """Which output is the answer, over OIP; empty: `label_index`, or the only one of numbers."""
    connections: int = 4
    deadline: float = 0.0
    rows: int = 1
    """In a request."""
    tls: Tls = Tls()


def context(address: Address, tls: Tls) -> ssl.SSLContext | None:
    """Raises TargetError for files that are no certificates."""
    if not address.tls:
        return None
    try:
        made = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            made.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise TargetError(f"TLS: found {error}, expected certificates and a key in PEM") from None
    if address.protocol.over_grpc:
        made.set_alpn_protocols(["h2"])
    return made


async def describe(address: Address, options: TargetOptions) -> Description:
    """What the server says of the model, which is there and ready. Raises TargetError."""
    tls = context(address, options.tls)
    if address.protocol is Protocol.PREDICT:
        found = await predict.describe(address, tls)
    elif address.protocol is Protocol.V1_HTTP:
        found = await v1_http.describe(address, tls)
    elif address.protocol is Protocol.OIP_GRPC:
        found = await oip_grpc.describe(address, tls, options.output)
    else:
        found = await oip_http.describe(address, tls, options.output)
    if not found.ready:
        raise TargetError(f"{address.place}: found that {found.name} is not ready, expected an ensemble that is")
    return found


def codec(address: Address, description: Description, options: TargetOptions) -> Codec:
    if address.protocol is Protocol.PREDICT:
        return predict.PredictCodec(description, options.deadline)
    if address.protocol is Protocol.V1_HTTP:
        return v1_http.V1HttpCodec(address, description)
    if address.protocol is Protocol.OIP_GRPC:
        return oip_grpc.OipGrpcCodec(description)
    binary = not options.json_tensors
    return oip_http.OipHttpCodec(address, description, binary=binary, rows=options.rows, deadline=options.deadline)


def caller(address: Address, options: TargetOptions, done: Done) -> Caller:
    """Raises TargetError for files that are no certificates."""
    tls = context(address, options.tls)
    if not address.protocol.over_grpc:
        return HttpCaller(address, HttpOptions(options.connections, max(options.connections, 1000), tls), done)
    grpc = GrpcOptions(options.connections, options.deadline, tls)
    if options.stream:
        return StreamCaller(address, predict.PREDICT_STREAM, grpc, done, predict.identify)
    method = predict.PREDICT if address.protocol is Protocol.PREDICT else oip_grpc.MODEL_INFER
    return UnaryCaller(address, method, grpc, done)
