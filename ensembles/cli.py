"""`ensembles …`: the workbench's commands."""

import json
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ensembles.promise import independent_majority_error

USAGE = 2

WrongUsage: Any = typer.BadParameter.__base__  # what all faults of usage are to typer, which has no public name for it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn what an ensemble of classifiers is worth.",
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


@app.command(epilog="Example: ensembles promise 0.3 0.3 0.3")
def promise(
    errors: Annotated[list[float], typer.Argument(metavar="ERROR…", help="How often each member errs, 0 to 1.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """The error that a majority vote would make if its members erred independently."""
    try:
        error = independent_majority_error(errors)
    except ValueError as fault:
        print(f"ensembles: {fault}", file=sys.stderr)
        raise typer.Exit(USAGE) from None
    print(json.dumps({"errors": errors, "independent_error": error}) if as_json else f"{error:.1%}")


def main() -> None:
    """Wrong usage is told in one line, as everything else is."""
    try:
        sys.exit(app(standalone_mode=False))
    except WrongUsage as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # which has shown the help already
            print(f"ensembles: {error.format_message()}", file=sys.stderr)
        sys.exit(USAGE)
    except typer.Abort:
        sys.exit(130)
