"""Options that `run` and `capacity` share, and what becomes of them."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from loadtest import slo, stages, target
from loadtest.commands import NO, USAGE, Fault
from loadtest.data import DataError
from loadtest.slo import Slo, SloError
from loadtest.stages import StagesError
from loadtest.target import Target, UnknownPolicy
from loadtest.targets.address import AddressError
from loadtest.targets.answers import TargetError
from loadtest.targets.opening import TargetOptions, Tls

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="grpc://host:port/ensemble, or oip+grpc://, http://, oip+http:// …/model; with an s behind the scheme for TLS.",
        show_default=False,
    ),
]
Policies = Annotated[
    Optional[list[str]],
    typer.Option("--policy", metavar="POLICY", help="Which to ask for, member:NAME too; several are interleaved."),
]
DataFile = Annotated[
    Optional[Path], typer.Option("--data", metavar="FILE", help="An .npz with rows x and labels y; else random rows.")
]
Rows = Annotated[int, typer.Option(min=1, help="In a request.")]
Seed = Annotated[
    int, typer.Option(min=0, help="Of arrivals and orders: the same seed sends the same at the same instants.")
]
WarmUp = Annotated[str, typer.Option(metavar="TIME", help="Of load before the first request that counts.")]
Deadline = Annotated[
    Optional[str],
    typer.Option(metavar="TIME", help="What a request may take, as the server is told. \\[default: its own]"),
]
Connections = Annotated[int, typer.Option(min=1, help="Of each worker; over HTTP the ones to begin with.")]
Stream = Annotated[bool, typer.Option("--stream", help="Over PredictStream instead of single calls; grpc:// only.")]
Tensors = Annotated[str, typer.Option(metavar="binary|json", help="How oip+http:// carries tensors.")]
Output = Annotated[
    str,
    typer.Option(
        "--output", metavar="NAME", help="The output that is the answer, of other servers over oip.", show_default=False
    ),
]
Ca = Annotated[
    Optional[Path], typer.Option("--ca", metavar="FILE", help="Whom to trust with TLS; else whom the system does.")
]
Certificate = Annotated[
    Optional[Path], typer.Option("--cert", metavar="FILE", help="Who we are, where the server asks.")
]
Key = Annotated[Optional[Path], typer.Option("--key", metavar="FILE", help="Of --cert.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes; one fills a core at about 6,000 light requests/s.")]
Objectives = Annotated[
    Optional[list[str]],
    typer.Option("--slo", metavar="EXPR", help="p99<50ms, error_rate<0.1%, accuracy>0.97, cost_per_1k<0.02usd, …"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def seconds(option: str, text: str, least: float = 0.0) -> float:
    """Of a duration. Raises Fault."""
    try:
        found = stages.duration(text)
    except StagesError as error:
        raise Fault(f"{option}: {error}", USAGE) from error
    if found < least or (least == 0 and found < 0):
        raise Fault(f"{option}: found {text}, expected at least {least:g} s", USAGE)
    return found


def positive(option: str, value: float) -> float:
    """Raises Fault."""
    if not (math.isfinite(value) and value > 0):
        raise Fault(f"{option}: found {value:g}, expected a number above 0", USAGE)
    return value


def objectives(texts: Sequence[str]) -> tuple[Slo, ...]:
    """Raises Fault, which shows where."""
    try:
        return slo.parse_all(texts)
    except SloError as error:
        raise Fault(f"--slo: {error}", USAGE) from error


def binary(text: str) -> bool:
    """Raises Fault."""
    if text not in {"binary", "json"}:
        raise Fault(f"--tensors: found {text!r}, expected binary or json", USAGE)
    return text == "binary"


def tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls:
    """Raises Fault."""
    if key is not None and certificate is None:
        raise Fault("--key: found a key alone, expected --cert beside it", USAGE)
    return Tls(ca, certificate, key)


def prepared(url: str, options: TargetOptions, policies: Sequence[str], path: Path | None, seed: int) -> Target:
    """A target that answers. Raises Fault."""
    twice = {policy for policy in policies if list(policies).count(policy) > 1}
    if twice:
        raise Fault(f"--policy: found {min(twice)} twice, expected each once", USAGE)
    try:
        return asyncio.run(target.prepare(url, options, tuple(policies), path, seed))
    except (AddressError, UnknownPolicy, DataError) as error:
        raise Fault(str(error), USAGE) from error
    except TargetError as error:
        raise Fault(str(error), USAGE if str(error).startswith("--") else NO) from error
