"""`loadtest size`: how many replicas a rate needs, and what they cost."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ensembles.estimates import Estimate
from ensembles.price import PRICE_PER_HOUR
from ensembles.wording import one_line
from loadtest import sizing, tables
from loadtest.commands import NO, USAGE, Fault, capacity, options
from loadtest.sizing import Fleet, SizingError, Terms
from loadtest.wording import count, span

EPILOG = "Example: loadtest size capacity.json --rate 5000 --rate 50000 --zones 3 --price-per-hour 0.12"

SCHEMA = 1
GIVEN = "given"
"""What a capacity is called that was typed."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a replica carries under one policy, in requests/s; None where no rate kept the objectives.

    `at_least`: more than the generator of the search could send; then replicas are at most so many.
    """

    policy: str
    capacity: Estimate | None
    at_least: bool = False


def size(
    file: Annotated[
        Optional[Path], typer.Argument(metavar="CAPACITY.json", help="Of `loadtest capacity --out`, or its folder.")
    ] = None,
    per_replica: Annotated[
        Optional[float], typer.Option(metavar="RATE", help="Instead of a file: requests/s that a replica carries.")
    ] = None,
    rates: Annotated[
        Optional[list[float]],
        typer.Option("--rate", metavar="RATE", help="Requests/s at the peak; may be repeated.  [required]"),
    ] = None,
    mean: Annotated[
        str, typer.Option(metavar="SHARE", help="The mean rate as a share of the peak, for costs.")
    ] = "100%",
    headroom: Annotated[
        str, typer.Option(metavar="SHARE", help="Of what a replica carries, stays free at the peak.")
    ] = "30%",
    zones: Annotated[int, typer.Option(min=1, help="So many, of which one may fail at the peak, if several.")] = 1,
    spare: Annotated[int, typer.Option(min=0, help="So many replicas may be missing at the peak.")] = 1,
    price_per_hour: Annotated[float, typer.Option(metavar="USD", help="Of a replica.")] = PRICE_PER_HOUR,
    policies: Annotated[
        Optional[list[str]], typer.Option("--policy", metavar="POLICY", help="Of the file's; may be repeated.  [all]")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """From what one replica carries to how many are needed, and what they cost.

    Exit codes: 0 done, 1 a replica carries no rate under a policy, 2 wrong usage.
    """
    wanted = [options.positive("--rate", each) for each in rates or []]
    if not wanted:
        raise Fault("--rate: found none, expected the requests/s at the peak, such as --rate 5000", USAGE)
    try:
        terms = Terms(_share("--headroom", headroom), spare, zones, price_per_hour, _share("--mean", mean))
        slos, carried = _carried(file, per_replica, policies or [])
        fleets = [
            (each, [sizing.fleet(rate, each.capacity, terms) for rate in wanted] if each.capacity else [])
            for each in carried
        ]
    except SizingError as error:
        raise Fault(f"--{str(error).replace('price:', 'price-per-hour:', 1)}", USAGE) from error
    if as_json:
        print(json.dumps(_content(slos, fleets, terms), indent=2, allow_nan=False))
    else:
        said = [Text(_said(slos, terms))] if any(found for _, found in fleets) else []
        tables.console().print(Group(_table(fleets), *said))
    if not all(each.capacity for each in carried):
        raise typer.Exit(NO)


def _share(option: str, text: str) -> float:
    """Raises Fault."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise Fault(f"{option}: found {text!r}, expected a share such as 30% or 0.3", USAGE)
    return found


def _carried(file: Path | None, typed: float | None, policies: list[str]) -> tuple[list[str], list[Carried]]:
    """The objectives, and what a replica carries by policy. Raises Fault."""
    if (file is None) == (typed is None):
        found = "neither" if file is None else "both"
        raise Fault(f"found {found}, expected a capacity.json or --per-replica RATE", USAGE)
    if file is None:
        value = options.positive("--per-replica", typed or 0.0)
        return [], [Carried(GIVEN, Estimate(value, value, value, 1))]
    path = file / capacity.FILE if file.is_dir() else file
    slos, carried = _read(path)
    known = {each.policy: each for each in carried}
    if unknown := [policy for policy in policies if policy not in known]:
        raise Fault(f"--policy: found {unknown[0]!r}, expected one of {', '.join(known)} as in {path}", USAGE)
    return slos, [known[policy] for policy in policies or known]


def _read(path: Path) -> tuple[list[str], list[Carried]]:
    """Raises Fault."""
    expected = "expected what `loadtest capacity --out` writes"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != capacity.SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        if not content["policies"]:
            raise ValueError("no policies")
        return [str(slo) for slo in content["slos"]], [_of(each) for each in content["policies"]]
    except OSError as error:
        raise Fault(f"{path}: found {error.strerror}, {expected}", USAGE) from error
    except Exception as error:  # a file may be wrong in any way
        raise Fault(f"{path}: found {type(error).__name__} {one_line(error)}, {expected}", USAGE) from error


def _of(content: dict[str, Any]) -> Carried:
    found = content["requests_per_second"]
    if found is None:
        return Carried(str(content["policy"]), None)
    high = math.inf if found["high"] is None else float(found["high"])
    estimate = Estimate(float(found["value"]), float(found["low"]), high, int(found["n"]))
    if not 0 < estimate.low <= estimate.value <= estimate.high or math.isinf(estimate.value):
        raise ValueError(f"a capacity of {estimate.value:g} from {estimate.low:g} to {estimate.high:g}")
    return Carried(str(content["policy"]), estimate, bool(content["limited_by_generator"]))


def _content(slos: list[str], fleets: list[tuple[Carried, list[Fleet]]], terms: Terms) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "slos": slos,
        "headroom": terms.headroom,
        "zones": terms.zones,
        "spare": terms.spare,
        "mean": terms.mean,
        "price_usd_per_hour": terms.price_per_hour,
        "policies": [
            {
                "policy": each.policy,
                "requests_per_second": each.capacity.as_json() if each.capacity else None,
                "at_least": each.at_least,
                "fleets": [
                    {
                        "rate": fleet.rate,
                        "replicas": fleet.replicas.as_json(),
                        "utilisation": fleet.utilisation,
                        "utilisation_degraded": fleet.degraded,
                        "cost_usd_per_hour": fleet.cost_usd_per_hour.as_json(),
                        "cost_usd_per_1000_requests": fleet.cost_usd_per_1000.as_json(),
                    }
                    for fleet in found
                ],
            }
            for each, found in fleets
        ],
    }


def _table(fleets: list[tuple[Carried, list[Fleet]]]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    heads = ["requests/s", "a replica carries", "peak", "replicas", "busy", "then", "USD an hour", "USD a million"]
    for number, head in enumerate(heads):
        made.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    for each, found in fleets:
        if each.capacity is None:
            made.add_row(each.policy, "none kept it")
        carries = "" if each.capacity is None else _with_span(each.capacity, _figure, at_least=each.at_least)
        for fleet in found:
            made.add_row(
                each.policy,
                carries,
                _figure(fleet.rate),
                _with_span(fleet.replicas, count, at_most=each.at_least),
                f"{fleet.utilisation:.0%}",
                f"{fleet.degraded:.0%}",
                _with_span(fleet.cost_usd_per_hour, _figure, at_most=each.at_least),
                _figure(1000 * (fleet.cost_usd_per_1000.high if each.at_least else fleet.cost_usd_per_1000.value)),
            )
    return made


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _with_span(of: Estimate, shown: Callable[[float], str], *, at_least: bool = False, at_most: bool = False) -> str:
    if at_least or at_most:
        return f"{'at least' if at_least else 'at most'} {shown(of.low if at_least else of.high)}"
    return shown(of.value) if of.low == of.high else f"{shown(of.value)} [{span(of.low, of.high, shown)}]"


def _said(slos: list[str], terms: Terms) -> str:
    kept = f", within {', '.join(slos)}" if slos else ""
    gone = f"one of {terms.zones} zones down" if terms.zones > 1 else f"{terms.spare} missing"
    mean = f" Costs are at a mean rate of {terms.mean:.0%} of the peak." if terms.mean < 1 else ""
    return (
        f"At the peak, even with {gone} (then), at least {terms.headroom:.0%} of the capacity is free{kept}.{mean} "
        f"A replica costs {terms.price_per_hour:g} USD an hour. In brackets the capacity's 95% interval, carried over."
    )
