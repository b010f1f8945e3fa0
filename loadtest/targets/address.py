"""What a target's URL says. Pure."""

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit


class AddressError(ValueError):
    """A URL that names no target; one line."""


class Protocol(Enum):
    """How requests travel, by the scheme of the URL."""

    PREDICT = "grpc"
    """`scrutin.v1.EnsembleService` over gRPC."""
    OIP_GRPC = "oip+grpc"
    """The Open Inference Protocol over gRPC."""
    V1_HTTP = "http"
    """`POST /v1/models/{m}:predict`, JSON."""
    OIP_HTTP = "oip+http"
    """The Open Inference Protocol over HTTP, with binary or JSON tensors."""

    @property
    def over_grpc(self) -> bool:
        return self in {Protocol.PREDICT, Protocol.OIP_GRPC}


DEFAULT_PORTS = {True: 8001, False: 8000}
"""Of a server of ours, over gRPC and over HTTP."""

SCHEMES = {
    scheme: (protocol, scheme.endswith("s"))
    for protocol in Protocol
    for scheme in (protocol.value, protocol.value + "s")
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is. `name`: of the ensemble or model; empty where the URL names none."""

    url: str
    protocol: Protocol
    tls: bool
    host: str
    port: int
    name: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """The URL without the name."""
        return f"{self.url.partition('://')[0]}://{self.authority}"


def parse(url: str) -> Address:
    """Raises AddressError."""
    expected = "expected grpc://host:port/ensemble, or oip+grpc, http or oip+http before ://, with an s behind for TLS"
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise AddressError(f"URL: found {url[:200]!r}, {expected}")
    protocol, tls = SCHEMES[scheme]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressError(f"URL: found {url[:200]!r} ({error}), {expected}") from None
    name = parts.path.strip("/")
    if not host or "/" in name or parts.query or parts.fragment or parts.username:
        raise AddressError(f"URL: found {url[:200]!r}, {expected}")
    return Address(url, protocol, tls, host, port or DEFAULT_PORTS[protocol.over_grpc], name)
