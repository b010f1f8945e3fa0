"""`loadtest merge`: the shards of one run become the run."""

from pathlib import Path
from typing import Annotated

import typer

from loadtest import merging, results
from loadtest.commands import USAGE, Fault, output
from loadtest.merging import MergeError
from loadtest.results import ResultsError

EPILOG = "Example: loadtest merge shard-1/results.json shard-2/results.json shard-3/results.json --out merged"


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD…", help="results.json of each shard, or its folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run goes: a new folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
) -> None:
    """Add up what the shards of one run measured, exactly, and judge the whole.

    Exit codes: as those of `loadtest run`; missing shards make the run invalid.
    """
    try:
        runs = [results.read(path) for path in shards]
        run = merging.merged(runs, [str(path) for path in shards])
    except (ResultsError, MergeError) as error:
        raise Fault(str(error), USAGE) from error
    output.end(run, output.show(run, output.new_folder(out), as_json=as_json))
