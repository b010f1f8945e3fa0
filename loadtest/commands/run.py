"""`loadtest run`: a load, and what the server made of it."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from loadtest import measuring, prometheus
from loadtest.commands import NO, USAGE, Fault, options, output, timing
from loadtest.commands.timing import Timing
from loadtest.live import View
from loadtest.measuring import Load
from loadtest.prometheus import ScrapeError, Series
from loadtest.records import RunRecord
from loadtest.schedule import BURSTINESS, ScheduleError
from loadtest.target import Target
from loadtest.targets.opening import TargetOptions
from loadtest.workers import WorkerError

EPILOG = (
    "Example: loadtest run grpc://localhost:8001/digits --rate 200 --duration 30s --policy full --policy member:cnn "
    "--data exported_models/digits/samples.npz --slo 'p99<50ms' --out report"
)


def run(
    url: options.Url,
    policies: options.Policies = None,
    rate: Annotated[
        Optional[float], typer.Option(help="Requests/s over all policies, sent whatever comes back. \\[default: 100]")
    ] = None,
    concurrency: Annotated[
        Optional[int], typer.Option(min=1, help="Instead of a rate, a closed loop of so many callers that wait.")
    ] = None,
    arrivals: Annotated[str, typer.Option(metavar="poisson|constant|gamma", help="gamma comes in bursts.")] = "poisson",
    burstiness: Annotated[
        float, typer.Option(help="Of gamma: the gaps' coefficient of variation; 1 is poisson.")
    ] = BURSTINESS,
    course: Annotated[
        Optional[str], typer.Option("--stages", help="Rates and ramps instead of one rate: 10-100:30s,100:1m.")
    ] = None,
    trace: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Arrivals as recorded: an instant a line, in seconds.")
    ] = None,
    duration: Annotated[str, typer.Option(metavar="TIME", help="Without the warm-up: 30s, 1.5m, 500ms.")] = "30s",
    warm_up: options.WarmUp = "1s",
    drain: Annotated[
        str, typer.Option(metavar="TIME", help="What is under way at the end may take so long yet.")
    ] = "10s",
    give_up: Annotated[str, typer.Option(metavar="TIME", help="End when there was no connection for so long.")] = "5s",
    data: options.DataFile = None,
    rows: options.Rows = 1,
    deadline: options.Deadline = None,
    slos: options.Objectives = None,
    seed: options.Seed = 0,
    out: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Where results.json and report.html go: a new folder.")
    ] = None,
    metrics: Annotated[
        Optional[str], typer.Option("--prometheus", metavar="URL", help="The server's own metrics, to lay beside.")
    ] = None,
    workers: options.Workers = 1,
    shard: Annotated[
        Optional[str], typer.Option(metavar="I/N", help="Send the i-th of n parts; the rest elsewhere.")
    ] = None,
    start_at: Annotated[
        Optional[str], typer.Option(metavar="TIME", help="When shards begin: Unix seconds, or 2026-01-31T12:00:00Z.")
    ] = None,
    connections: options.Connections = 4,
    stream: options.Stream = False,
    tensors: options.Tensors = "binary",
    answer: options.Output = "",
    ca: options.Ca = None,
    cert: options.Certificate = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Send requests at planned instants, and say how fast, how right and how dear the answers were.

    Exit codes: 0 done, 1 the target went away, 2 wrong usage, 3 an objective was missed, 4 the run is not valid, 130 interrupted.
    """
    objectives = options.objectives(slos or [])
    typed = Timing(rate, concurrency, arrivals, burstiness, course, trace, duration)
    load = timing.planned(typed, warm_up, drain, give_up, seed, workers, shard, start_at)
    asked = TargetOptions(
        stream=stream,
        json_tensors=not options.binary(tensors),
        output=answer,
        connections=connections,
        deadline=options.seconds("--deadline", deadline, 0.001) if deadline else 0.0,
        rows=rows,
        tls=options.tls(ca, cert, key),
    )
    folder = output.new_folder(out)
    target = options.prepared(url, asked, policies or [], data, seed)
    before = _scraped(metrics)
    record = measured(target, load, quiet=as_json)
    record.slos = [slo.text for slo in objectives]
    _lay_beside(record, before, metrics)
    output.end(record, output.show(record, folder, as_json=as_json))


def measured(target: Target, load: Load, *, quiet: bool) -> RunRecord:
    """Raises Fault."""
    try:
        with View(target.names, load.duration, quiet=quiet) as view:
            return measuring.measure(target, load, view)
    except ScheduleError as error:
        raise Fault(str(error), USAGE) from error
    except WorkerError as error:
        raise Fault(str(error), USAGE if str(error).startswith("--") else NO) from error


def _scraped(url: str | None) -> Series:
    """Raises Fault."""
    try:
        return prometheus.scrape(url) if url else {}
    except ScrapeError as error:
        raise Fault(f"--prometheus: {error}", NO) from error


def _lay_beside(record: RunRecord, before: Series, url: str | None) -> None:
    if url is None:
        return
    try:
        record.server = prometheus.increase(before, prometheus.scrape(url), record.ensemble["name"])
    except ScrapeError as error:
        print(f"loadtest: --prometheus: {error}; the rest is kept", file=sys.stderr)
