"""`ensembles evaluate`: what the ensemble is worth on labelled data."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ensembles import document, report, repository
from ensembles.commands import DATA, USAGE, Fault
from ensembles.commands.progress import bar
from ensembles.dataset import DatasetError
from ensembles.document import DocumentError
from ensembles.members import MemberError
from ensembles.price import PRICE_PER_HOUR
from ensembles.recording import RecordingError, default_cache, record
from ensembles.report import ReportError
from ensembles.repository import RepositoryError
from ensembles.tables import console, tables

EPILOG = "Example: ensembles evaluate exported_models/digits --data exported_models/digits/samples.npz --out report"


FAULTS = (RepositoryError, DatasetError, RecordingError, MemberError, DocumentError, ReportError)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="The ensemble's directory.")],
    data: Annotated[str, typer.Option(help=DATA)],
    out: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="Where evaluation.json and report.html go; else only the table is shown."),
    ] = None,
    cache: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="Where the members' votes are kept. \\[default: ~/.cache/scrutin/votes]"),
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Put none of the data's images into the report.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    price_per_hour: Annotated[
        float, typer.Option(min=0, metavar="USD", help="What an hour of one device costs.")
    ] = PRICE_PER_HOUR,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits into halves.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")] = False,
) -> None:
    """Run every member once over labelled data, and say what the vote is worth and what it costs."""
    if not math.isfinite(price_per_hour):
        raise Fault(f"--price-per-hour: found {price_per_hour}, expected USD", USAGE)
    try:
        if out is not None:
            report.check_drawable()
        found = repository.read(folder)
        with bar("running the members") as progress:
            recording = record(found, Path(data), cache or default_cache(), skip_bad=skip_bad, progress=progress)
        with bar("judging the votes"):
            evaluation = document.evaluated(recording, price_per_hour, seed, not no_pictures)
        if out is not None:
            document.write(out / document.FILE, document.text(evaluation))
            report.redraw(out)
    except FAULTS as fault:
        raise Fault(str(fault)) from fault
    if as_json:
        print(json.dumps(evaluation, allow_nan=False))
    else:
        console().print(tables(evaluation))
    if out is not None:
        print(f"wrote {out / document.FILE} and {out / report.FILE}", file=sys.stderr)
