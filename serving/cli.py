"""`serving run` and `serving check`: flags to settings to the server."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ensembles import repository
from ensembles.members import Member
from ensembles.repository import Repository, RepositoryError
from serving.settings import Settings, SettingsError, read

DONE, NO, USAGE = 0, 1, 2

WrongUsage: Any = typer.BadParameter.__base__  # what all faults of usage are to typer, which has no public name for it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve a vote of several classifiers over gRPC and HTTP.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"scrutin {version('scrutin')}")
        raise typer.Exit


@app.callback()
def _all(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Common to all commands."""


Repositories = Annotated[list[Path], typer.Argument(metavar="REPOSITORY…", help="Model repository directories.")]


@app.command(epilog="Example: serving run exported_models/digits --price-per-hour 0.09")
def run(
    repositories: Repositories,
    host: Annotated[Optional[str], typer.Option(help="IP address to listen on.  [127.0.0.1]")] = None,
    http_port: Annotated[Optional[int], typer.Option(help="0 picks a free one.  [8000]")] = None,
    grpc_port: Annotated[Optional[int], typer.Option(help="0 picks a free one.  [8001]")] = None,
    metrics_port: Annotated[Optional[int], typer.Option(help="0 picks a free one.  [8002]")] = None,
    price_per_hour: Annotated[
        Optional[float], typer.Option(metavar="USD", help="Price of an hour of one device.  [0.10]")
    ] = None,
    management: Annotated[
        Optional[bool],
        typer.Option("--management", help="Let callers load and unload ensembles; SIGHUP reloads in any case."),
    ] = None,
    drain_delay_seconds: Annotated[
        Optional[float], typer.Option(help="On SIGTERM, keep taking requests for so long.  [0]")
    ] = None,
    drain_timeout_seconds: Annotated[
        Optional[float], typer.Option(help="Then wait at most so long for answers under way.  [20]")
    ] = None,
    log_format: Annotated[Optional[str], typer.Option(metavar="text|json", help="Lines of the log.  [text]")] = None,
    access_log: Annotated[Optional[bool], typer.Option("--access-log", help="Log every request.")] = None,
    otlp_endpoint: Annotated[
        Optional[str], typer.Option(metavar="URL", help="Send spans to this OpenTelemetry collector, over HTTP.")
    ] = None,
    trace_ratio: Annotated[
        Optional[float], typer.Option(help="Begin a trace for this share of the requests without one.  [0.01]")
    ] = None,
    config: Annotated[Optional[Path], typer.Option(metavar="FILE", help="YAML of these settings; flags win.")] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Serve the ensembles in one or more model repositories until SIGTERM. SIGHUP loads their newer versions."""
    flags: dict[str, object] = {
        "repositories": tuple(path.absolute() for path in repositories),
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "price_per_hour": price_per_hour,
        "management": management,
        "drain_delay_seconds": drain_delay_seconds,
        "drain_timeout_seconds": drain_timeout_seconds,
        "log_format": log_format,
        "access_log": access_log,
        "otlp_endpoint": otlp_endpoint,
        "trace_ratio": trace_ratio,
    }
    from serving.door import DoorError, become, with_free_ports
    from serving.receipts import read_key

    try:
        settings = read(config, flags)
        _verified(settings.repositories)
        if settings.receipt_key_file:
            read_key(settings.receipt_key_file)
        if settings.otlp_endpoint:
            _can_trace(settings, settings.otlp_endpoint)
        become(with_free_ports(settings))
    except SettingsError as error:
        _fail(error, USAGE, debug)
    except (RepositoryError, DoorError, ValueError) as error:
        _fail(error, NO, debug)


@app.command(epilog="Example: serving check exported_models/digits")
def check(
    repositories: Repositories,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Validate repositories, load their members and replay their samples; exit 1 with one line a fault."""
    faults = []
    for path in repositories:
        fault = _fault(path)
        warnings = [] if fault else repository.read(path).spec.warnings
        faults.append({"repository": str(path), "ok": fault is None, "fault": fault, "warnings": warnings})
        for warning in warnings:
            print(f"serving: {path}: {warning}", file=sys.stderr)
        if fault is None and not as_json:
            print(f"{path}: ok")
        elif fault is not None:
            print(f"serving: {fault}", file=sys.stderr)
    if as_json:
        print(json.dumps(faults))
    raise typer.Exit(DONE if all(row["ok"] for row in faults) else NO)


def _can_trace(settings: Settings, endpoint: str) -> None:
    """Raises SettingsError."""
    from serving.tracing import Tracer  # only here, since few need the packages that it needs

    library = logging.getLogger("opentelemetry")
    library.addHandler(logging.NullHandler())  # what it says of variables that it passes over, the server's log tells
    Tracer(settings, endpoint).close()


def _verified(paths: tuple[Path, ...]) -> list[Repository]:
    """Read and verify repositories. Raises RepositoryError, or ValueError when two have one name."""
    from serving.catalog import Catalog

    found = [repository.read(path) for path in paths]
    Catalog.of(found)
    for each in found:
        repository.verify(each)
    return found


def _fault(path: Path) -> str | None:
    from concurrent.futures import ThreadPoolExecutor

    from serving.catalog import onnx_loader
    from serving.sanity import SanityError

    try:
        (found,) = _verified((path,))
        with ThreadPoolExecutor(1) as executor:
            asyncio.run(_replayed(found, onnx_loader(executor)))
    except (ValueError, SanityError) as error:
        return str(error)
    return None


async def _replayed(found: Repository, load_member: Callable[..., Member]) -> None:
    from serving.catalog import check_shadows, loaded

    for member in await loaded(found, load_member):
        member.close()
    await check_shadows(found, load_member)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    print(f"serving: {error}", file=sys.stderr)
    raise typer.Exit(code)


def main() -> None:
    """Wrong usage is told in one line, as everything else is."""
    try:
        sys.exit(app(standalone_mode=False))
    except WrongUsage as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # which has shown the help already
            print(f"serving: {error.format_message()}", file=sys.stderr)
        sys.exit(USAGE)
    except typer.Abort:
        sys.exit(130)
