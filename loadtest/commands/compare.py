"""`loadtest compare`: what changed between two runs."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.text import Text

from loadtest import comparison, results, tables, validity
from loadtest.commands import INVALID, NO, USAGE, Fault
from loadtest.comparison import Change, Pair
from loadtest.records import RunRecord
from loadtest.results import ResultsError

EPILOG = "Example: loadtest compare before/results.json after/results.json --tolerance 5%"

SCHEMA = 1


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="results.json of a run, or its folder.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The run that is held against it.")],
    tolerance: Annotated[
        str, typer.Option(metavar="SHARE", help="Changes up to so much are no alarm, such as 5% or 0.05.")
    ] = "0",
    pairs: Annotated[
        Optional[list[str]],
        typer.Option("--pair", metavar="P=Q", help="Policy P of A against policy Q of B; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare latency, throughput, errors, accuracy and cost of two runs, with intervals.

    Exit codes: 0 nothing is shown to be worse, 1 something is, 2 wrong usage, 4 one of the runs is invalid.
    """
    share = _share(tolerance)
    first, second = _read(before), _read(after)
    both = [_pair(first, second, text) for text in pairs] if pairs else comparison.pairs_of(first, second)
    if not both:
        raise Fault(
            f"{after}: found policies {_named(second)}, expected one of {_named(first)} as in {before}, or --pair P=Q",
            USAGE,
        )
    changes = comparison.compared(both, share)
    invalid = [
        f"{path}: {reason}" for path, run in ((before, first), (after, second)) for reason in validity.reasons(run)
    ]
    (_print_json if as_json else _print)(changes, comparison.unlike(first, second), invalid)
    if invalid:
        raise typer.Exit(INVALID)
    if any(change.worse for change in changes):
        raise typer.Exit(NO)


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise Fault(f"--tolerance: found {text!r}, expected a share from 0 to 1 such as 5% or 0.05", USAGE)
    return value


def _read(path: Path) -> RunRecord:
    try:
        return results.read(path)
    except ResultsError as error:
        raise Fault(str(error), USAGE) from error


def _pair(first: RunRecord, second: RunRecord, text: str) -> Pair:
    name, _, other = text.partition("=")
    try:
        return Pair(first, second, first.arm(name), second.arm(other or name))
    except KeyError as error:
        raise Fault(
            f"--pair {text}: found no policy {error.args[0]}, expected one of {_named(first)} and one of {_named(second)}",
            USAGE,
        ) from None


def _named(run: RunRecord) -> str:
    return ", ".join(arm.policy for arm in run.arms)


def _print(changes: list[Change], unlike: list[str], invalid: list[str]) -> None:
    console = tables.console()
    console.print(tables.changes(changes))
    if unlike:
        console.print(Text(f"The runs differ in more than what was measured: {'; '.join(unlike)}.", style="yellow"))
    for reason in invalid:
        console.print(Text(f"INVALID: {reason}", style="bold red"))
    console.print(Text(comparison.said(changes), style="bold"))


def _print_json(changes: list[Change], unlike: list[str], invalid: list[str]) -> None:
    content = {
        "schema": SCHEMA,
        "valid": not invalid,
        "invalid_because": invalid,
        "unlike": unlike,
        "changes": comparison.as_json(changes),
        "worse": any(change.worse for change in changes),
        "text": comparison.said(changes),
    }
    print(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False))
