"""`loadtest …`: the load generator's commands."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from loadtest.commands import USAGE, Fault, capacity, compare, merge, report, run

WrongUsage: Any = typer.BadParameter.__base__  # what all faults of usage are to typer, which has no public name for it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure a served ensemble under load: how fast, how right, and how dear.",
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


app.command(epilog=run.EPILOG)(run.run)
app.command(epilog=capacity.EPILOG)(capacity.capacity)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=merge.EPILOG)(merge.merge)
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
    """On one line, which commands no terminal: what messages quote, such as a server's own words, may hold anything."""
    text = " ".join(str(said).split())
    print("loadtest:", "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text), file=sys.stderr)
