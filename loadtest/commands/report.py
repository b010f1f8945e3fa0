"""`loadtest report`: the pages of a run, made again."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from loadtest import outputs, results
from loadtest import report as pages
from loadtest.commands import USAGE, Fault
from loadtest.report import ReportError
from loadtest.results import ResultsError

EPILOG = "Example: loadtest report results.json --out pages"


def report(
    run: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="results.json of a run, or its folder.")],
    out: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Where the files go; else beside results.json.")
    ] = None,
) -> None:
    """Write report.html, results.csv and latency.hlog from a results.json, such as one of a machine without matplotlib."""
    folder = out or (run if run.is_dir() else run.parent)
    try:
        pages.check_drawable()
        record = results.read(run)
        written = outputs.write(record, results.document(record), folder)
    except ReportError as error:
        raise Fault(str(error)) from error
    except (ResultsError, ValueError) as error:
        raise Fault(str(error), USAGE) from error
    for path in written.values():
        print(path)
