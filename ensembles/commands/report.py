"""`ensembles report`: the report again, from what an evaluation wrote."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ensembles import report as reports
from ensembles.commands import Fault
from ensembles.document import DocumentError
from ensembles.report import ReportError

EPILOG = "Example: ensembles report report"


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds evaluation.json, and plan.json if there is one.")
    ],
    svg: Annotated[bool, typer.Option("--svg", help="Also write each picture as an .svg file of its own.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Draw report.html again from evaluation.json and plan.json alone."""
    try:
        file = reports.redraw(folder)
        pictures = reports.apart(folder) if svg else []
    except (DocumentError, ReportError) as fault:
        raise Fault(str(fault)) from fault
    if as_json:
        print(json.dumps({"report": str(file), "pictures": list(map(str, pictures))}))
    else:
        print(file, *pictures, sep="\n")
