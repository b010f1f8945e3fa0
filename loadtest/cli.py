"""`loadtest …`: the load generator's commands."""

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        print(f"scrutin {version('scrutin')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help="Measure a served ensemble under load.")
def _all(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Common to all commands."""


def main() -> None:
    app()
