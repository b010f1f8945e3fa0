"""`ensembles …`: the workbench's commands."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ensembles.commands import USAGE, Fault, evaluate, export, plan, promise, report, search, train

WrongUsage: Any = typer.BadParameter.__base__  # what all faults of usage are to typer, which has no public name for it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, export and judge the members of an ensemble, and learn whether it is worth its compute.",
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
    debug: Annotated[bool, typer.Option("--debug", help="Show where a fault comes from.")] = False,
) -> None:
    """Common to all commands."""


app.command(epilog=promise.EPILOG)(promise.promise)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=search.EPILOG)(search.search)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command(epilog=report.EPILOG)(report.report)


def main() -> None:
    """Every fault is told in one line; with `--debug` it is raised."""
    try:
        sys.exit(app(standalone_mode=False))
    except Fault as fault:
        if "--debug" in sys.argv:
            raise
        _complain(fault)
        sys.exit(fault.code)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        _complain(
            f"{error.filename or 'the system'}: found {error.strerror or error}, expected a file that can be used"
        )
        sys.exit(1)
    except WrongUsage as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # which has shown the help already
            _complain(error.format_message())
        sys.exit(USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def _complain(said: object) -> None:
    """On one line, which commands no terminal: what messages quote, such as names in a zip, may hold anything."""
    text = " ".join(str(said).split())
    print("ensembles:", "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text), file=sys.stderr)
