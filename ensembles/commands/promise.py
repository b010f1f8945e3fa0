"""`ensembles promise`: what a vote could give, before anything is trained."""

import dataclasses
import json
from typing import Annotated, Optional

import typer

from ensembles.commands import USAGE, Fault
from ensembles.promise import CORRELATIONS, Promise
from ensembles.promise import promise as promised

MOST_MEMBERS = 10_000
MOST_SHOWN = 9

EPILOG = "Example: ensembles promise 0.3 0.3 0.3; ensembles promise 0.3 --members 5 --double-fault 0.15"


def promise(
    errors: Annotated[list[float], typer.Argument(metavar="ERROR", help="How often each member errs, 0 to 1.")],
    weight: Annotated[
        Optional[list[float]], typer.Option(help="What a member's vote counts; once a member, in order.  [1 each]")
    ] = None,
    members: Annotated[
        Optional[int], typer.Option(min=1, max=MOST_MEMBERS, help="So many members, all with the one ERROR.")
    ] = None,
    correlation: Annotated[
        Optional[list[float]], typer.Option(help="Of errors, 0 to 1; may be repeated.  [0.05, 0.2, 0.5]")
    ] = None,
    double_fault: Annotated[
        Optional[float], typer.Option(help="How often two members are wrong together, mean over all pairs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """The error that a majority vote would make if its members erred independently, and what if they do not."""
    try:
        found = promised(_repeated(errors, members), weight or None, correlation or CORRELATIONS, double_fault)
    except ValueError as fault:
        raise Fault(str(fault), USAGE) from None
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(_percent(found.independent_error), *_report(found), sep="\n")


def _repeated(errors: list[float], members: int | None) -> list[float]:
    if members is not None and len(errors) != 1:
        raise Fault(f"--members: found {len(errors)} errors beside it, expected one, that of every member", USAGE)
    if len(errors) > MOST_MEMBERS:
        raise Fault(f"found {len(errors)} errors, expected at most {MOST_MEMBERS}", USAGE)
    return errors * (members or 1)


def _report(found: Promise) -> list[str]:
    """The lines below the first: a number each, and when it is the error."""
    several = len(found.errors) > 1
    rows = [*(_rows(found) if several else ()), (_percent(found.best_error), "is what the best member alone errs")]
    width = max(len(number) for number, _ in rows)
    table = [f"  {number:>{width}}  {text}" for number, text in rows]
    return ["", f"The majority of {_who(found)}, errs", *table, "", *_advice(found)]


def _rows(found: Promise) -> list[tuple[str, str]]:
    as_if = f" as if each erred {_percent(found.mean_error)};" if len(set(found.errors)) > 1 else ""
    correlated = [
        (
            _percent(each.error),
            f"if errors correlate {each.correlation:g} (beta-binomial;{as_if} {_percent(each.limit)} with ever more members)",
        )
        for each in found.correlated
    ]
    independent = (_percent(found.independent_error), "if they err independently (Poisson-binomial)")
    return [independent, *correlated, _bracket(found)]


def _bracket(found: Promise) -> tuple[str, str]:
    if found.bracket is None:
        return "?", "whatever the dependence (known for equal weights only)"
    known = "mean error allows; --double-fault narrows it"
    if found.double_fault is not None:
        known = f"mean error and a double fault of {_percent(found.double_fault)} allow"
    return " to ".join(map(_percent, found.bracket)), f"whatever the dependence (all that the {known})"


def _advice(found: Promise) -> list[str]:
    best, below = _percent(found.best_error), _percent(found.others_below)
    lines = [
        f"A second and a third member, both independent, help the best one ({best}) if each errs less than {below}."
    ]
    if found.third_below is not None:
        second = _percent(sorted(found.errors)[1])
        lines += [f"With the second best ({second}), the third must err less than {_percent(found.third_below)}."]
    return [
        *lines,
        "For two classes, ties counting half. With more classes wrong votes can split, and the vote may err less.",
    ]


def _who(found: Promise) -> str:
    n, errors = len(found.errors), set(found.errors)
    if n == 1:
        return "one member"
    if len(errors) == 1:
        text = f"{n} members that err {_percent(found.errors[0])} each"
    elif n <= MOST_SHOWN:
        text = f"{n} members that err " + ", ".join(map(_percent, found.errors))
    else:
        text = f"{n} members that err {_percent(found.mean_error)} on average"
    if len(set(found.weights)) > 1 and n <= MOST_SHOWN:
        text += " and count " + ", ".join(f"{weight:g}" for weight in found.weights)
    return text


def _percent(share: float) -> str:
    """One decimal; two digits below one per cent."""
    if 0 < share < 1e-6:
        return "<0.0001%"
    return f"{100 * share:.2g}%" if 0 < share < 0.01 else f"{share:.1%}"
