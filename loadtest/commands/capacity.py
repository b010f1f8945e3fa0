"""`loadtest capacity`: how much traffic a server carries."""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from loadtest import judging, validity
from loadtest.capacity import MOST_PROBES, Found, Heard, Search
from loadtest.commands import INVALID, NO, USAGE, Fault, options, output
from loadtest.commands.run import measured
from loadtest.jobs import Course
from loadtest.measuring import Load
from loadtest.records import RunRecord
from loadtest.schedule import Arrivals, steady
from loadtest.slo import Outcome, Slo, Unit
from loadtest.target import Target
from loadtest.targets.opening import TargetOptions

EPILOG = "Example: loadtest capacity grpc://localhost:8001/digits --slo 'p99<50ms' --policy full --policy early_exit"

SCHEMA = 1
FILE = "capacity.json"
CALLERS, LOOK_SECONDS, PART = 4, 2.0, 4.0
"""The search starts at a fourth of what so many waiting callers are served within so long."""
REST_SECONDS = 1.0
"""Between probes, for what the last one left behind."""
PROBE_CONFIDENCE = 0.9
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Searched:
    policy: str
    found: Found


def capacity(
    url: options.Url,
    slos: options.Objectives = None,
    policies: options.Policies = None,
    start: Annotated[
        Optional[float],
        typer.Option(metavar="RATE", help="The first rate to try, in requests/s; else a guess from a look."),
    ] = None,
    probe: Annotated[str, typer.Option(metavar="TIME", help="How long each rate is tried.")] = "10s",
    probes: Annotated[int, typer.Option(min=3, help="The most rates to try, for each policy.")] = MOST_PROBES,
    arrivals: Annotated[str, typer.Option(metavar="poisson|constant", help="How requests arrive.")] = "poisson",
    warm_up: options.WarmUp = "1s",
    data: options.DataFile = None,
    rows: options.Rows = 1,
    deadline: options.Deadline = None,
    seed: options.Seed = 0,
    out: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Where capacity.json goes: a new folder.")] = None,
    workers: options.Workers = 1,
    connections: options.Connections = 4,
    stream: options.Stream = False,
    tensors: options.Tensors = "binary",
    answer: options.Output = "",
    ca: options.Ca = None,
    cert: options.Certificate = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Search the highest arrival rate that keeps all objectives, policy after policy.

    Exit codes: 0 found, 1 no rate that was tried kept them, 2 wrong usage, 4 the generator was the limit, and not the server.
    """
    objectives = options.objectives(slos or [])
    if not objectives:
        raise Fault("--slo: found none, expected at least one such as 'p99<50ms'", USAGE)
    if arrivals not in {"poisson", "constant"}:
        raise Fault(f"--arrivals: found {arrivals!r}, expected poisson or constant", USAGE)
    asked = TargetOptions(
        stream=stream,
        json_tensors=not options.binary(tensors),
        output=answer,
        connections=connections,
        deadline=options.seconds("--deadline", deadline, 0.001) if deadline else 0.0,
        rows=rows,
        tls=options.tls(ca, cert, key),
    )
    load = Load(
        course=Course(Arrivals(arrivals), ()),
        duration=options.seconds("--probe", probe, 1.0),
        seed=seed,
        warm_up=options.seconds("--warm-up", warm_up),
        workers=workers,
    )
    first = None if start is None else options.positive("--start", start)
    folder = output.new_folder(out)
    target = options.prepared(url, asked, policies or [], data, seed)
    found = [
        Searched(only.names[0], searched(only, load, objectives, first, probes, _tell(only.names[0], quiet=as_json)))
        for only in _each(target)
    ]
    _finish(target, objectives, found, folder, as_json=as_json)


def _each(target: Target) -> list[Target]:
    """The same target with one policy each."""
    pairs = zip(target.policies, target.names, strict=True)
    return [replace(target, policies=(policy,), names=(name,)) for policy, name in pairs]


Tell = Callable[[int, float, Heard, str], None]


def _tell(policy: str, *, quiet: bool) -> Tell:
    """Says on the standard error what a probe gave."""

    def tell(number: int, rate: float, heard: Heard, why: str) -> None:
        if not quiet:
            print(f"{policy}: {number}: {rate:,.1f} requests/s: {heard.value}{why}", file=sys.stderr, flush=True)

    return tell


def searched(target: Target, load: Load, slos: tuple[Slo, ...], start: float | None, most: int, tell: Tell) -> Found:
    """Of one policy. Raises Fault."""
    search = Search(start or looked(target, load), most)
    number = 0
    while (rate := search.next_probe()) is not None:
        number += 1
        time.sleep(REST_SECONDS)
        heard, sure, why = heard_at(target, load, slos, rate, number)
        tell(number, rate, heard, why)
        search.observe(rate, heard, sure)
    return search.found()


def heard_at(target: Target, load: Load, slos: tuple[Slo, ...], rate: float, number: int) -> tuple[Heard, bool, str]:
    """What a probe says. One whose generator fell short is tried again, as that may have been the machine's own affair. Raises Fault."""
    for attempt in range(ATTEMPTS):
        found = judged(probed(target, load, rate, ATTEMPTS * number + attempt), slos)
        if found[0] is not Heard.INVALID:
            break
        time.sleep(REST_SECONDS)
    return found


def looked(target: Target, load: Load) -> float:
    """A rate that is likely below the capacity. Raises Fault."""
    run = measured(
        target, replace(load, course=None, concurrency=CALLERS, workers=1, duration=LOOK_SECONDS), quiet=True
    )
    answered = run.arms[0].latency.count
    if not answered:
        said_first = next(iter(run.messages.values()), "nothing was answered")
        raise Fault(f"{target.address.url}: found no answers in a first look ({said_first}), expected some", NO)
    return answered / LOOK_SECONDS / PART


def probed(target: Target, load: Load, rate: float, number: int) -> RunRecord:
    """Each with arrivals of its own. Raises Fault."""
    course = Course(load.course.kind, steady(rate, load.duration)) if load.course else None
    run = measured(target, replace(load, course=course, seed=load.seed + number), quiet=True)
    if run.stopped:
        raise Fault(
            f"at {rate:,.1f} requests/s {run.stopped}", NO if "interrupted" not in run.stopped else output.INTERRUPTED
        )
    return run


def judged(run: RunRecord, slos: tuple[Slo, ...]) -> tuple[Heard, bool, str]:
    """What a probe said, whether for sure, and what was missed."""
    outcomes = judging.judged(run, run.arms[0], slos, PROBE_CONFIDENCE)
    missed = [each for each in outcomes if not each.met]
    reasons = validity.reasons(run)
    if missed and not _generator_short(reasons):
        why = ", ".join(f"{each.slo.text} (found {_value(each)})" for each in missed)
        return Heard.MISSED, any(each.sure for each in missed), f": {why}"
    if reasons:
        return Heard.INVALID, True, f": {reasons[0]}"
    return Heard.KEPT, all(each.sure for each in outcomes), ""


def _generator_short(reasons: list[str]) -> bool:
    """A late generator makes latencies its own; then nothing is said of the server."""
    return any("generator" in reason for reason in reasons)


def _value(outcome: Outcome) -> str:
    if outcome.found is None:
        return "nothing"
    value = outcome.found.value
    if outcome.slo.unit is Unit.SECONDS:
        return f"{1000 * value:.3g} ms" if math.isfinite(value) else "no answer to enough requests"
    return f"{value:.4g}"


def content(target: Target, slos: tuple[Slo, ...], found: list[Searched]) -> dict[str, Any]:
    """Of capacity.json."""
    return {
        "schema": SCHEMA,
        "target": target.address.url,
        "slos": [slo.text for slo in slos],
        "rows_per_request": target.options.rows,
        "policies": [
            {
                "policy": each.policy,
                "requests_per_second": _estimate(each.found),
                "limited_by_generator": each.found.limited,
                "probes": [
                    {"rate": probe.rate, "heard": probe.heard.value, "sure": probe.sure} for probe in each.found.probes
                ],
            }
            for each in found
        ],
    }


def _estimate(found: Found) -> dict[str, float | int | None] | None:
    """JSON has no infinity: a capacity without a bound has no `high`."""
    rate = found.rate
    if rate is None:
        return None
    return {"value": rate.value, "low": rate.low, "high": rate.high if math.isfinite(rate.high) else None, "n": rate.n}


def _finish(
    target: Target, slos: tuple[Slo, ...], found: list[Searched], folder: Path | None, *, as_json: bool
) -> None:
    text = json.dumps(content(target, slos, found), indent=2, allow_nan=False)
    if folder is not None:
        (folder / FILE).write_text(text + "\n")
    if as_json:
        print(text)
    else:
        Console().print(table(slos, found))
    if any(each.found.rate is None for each in found):
        raise typer.Exit(NO)
    if any(each.found.limited for each in found):
        raise typer.Exit(INVALID)


def table(slos: tuple[Slo, ...], found: list[Searched]) -> Table:
    made = Table(
        "policy",
        "requests/s",
        "95% interval",
        "times the first",
        "probes",
        title=f"Most with {', '.join(slo.text for slo in slos)}",
    )
    first = found[0].found.rate
    for each in found:
        rate = each.found.rate
        if rate is None:
            made.add_row(each.policy, "none kept it", "", "", str(len(each.found.probes)))
            continue
        high = (
            f"{rate.high:,.0f}"
            if math.isfinite(rate.high)
            else "more than the generator sends"
            if each.found.limited
            else "not found"
        )
        times = f"{rate.value / first.value:.2f}" if first else ""
        made.add_row(
            each.policy, f"{rate.value:,.0f}", f"{rate.low:,.0f} to {high}", times, str(len(each.found.probes))
        )
    return made
