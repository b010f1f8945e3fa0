"""What the commands with subcommands have in common: `--version`, `--debug`, and every fault in one line."""

import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer

USAGE = 2
"""The exit code of wrong usage."""

WrongUsage: Any = typer.BadParameter.__base__  # what all faults of usage are to typer, which has no public name for it


class Fault(Exception):
    """The command ends here: one line for the user, and the exit code (1: the answer is no, 2: wrong usage)."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def application(help_text: str) -> typer.Typer:
    """One without subcommands yet."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=help_text)
    app.callback()(_common)
    return app


def _version(asked: bool) -> None:
    if asked:
        print(f"scrutin {version('scrutin')}")
        raise typer.Exit


def _common(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where a fault comes from.")] = False,
) -> None:
    """Common to all subcommands."""


def run(app: typer.Typer, name: str) -> NoReturn:
    """Every fault is told in one line; with `--debug` it is raised."""
    try:
        sys.exit(app(standalone_mode=False))
    except Fault as fault:
        if "--debug" in sys.argv:
            raise
        _complain(name, fault)
        sys.exit(fault.code)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        _complain(
            name, f"{error.filename or 'the system'}: found {error.strerror or error}, expected a file that can be used"
        )
        sys.exit(1)
    except WrongUsage as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # which has shown the help already
            _complain(name, error.format_message())
        sys.exit(USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def _complain(name: str, said: object) -> None:
    """On one line, which commands no terminal: what messages quote, such as names in a zip, may hold anything."""
    text = " ".join(str(said).split())
    print(f"{name}:", "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text), file=sys.stderr)
