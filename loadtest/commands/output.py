"""What a run leaves: files, a table or JSON, and an exit code."""

import json
import sys
from pathlib import Path

import typer

from ensembles.wording import one_line
from loadtest import outputs, report, results, tables
from loadtest.commands import INVALID, MISSED, NO, USAGE, Fault
from loadtest.records import Json, RunRecord
from loadtest.results import ResultsError
from loadtest.workers import STOP

INTERRUPTED = 130
"""The exit code of a run that Ctrl-C ended."""


def new_folder(path: Path | None) -> Path | None:
    """Made now, so that a long run cannot fail at its end. Raises Fault."""
    if path is None:
        return None
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Fault(f"--out: found {path}, expected a folder that is not there yet, or an empty one", USAGE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".probe").touch()
        (path / ".probe").unlink()
    except OSError as error:
        raise Fault(
            f"--out: found {path} ({(error.strerror or '').lower()}), expected a folder to write to", USAGE
        ) from error
    return path


def show(record: RunRecord, folder: Path | None, *, as_json: bool) -> Json:
    """Write the files, print what was found, and return it as `results.json` has it. Raises Fault."""
    document = results.document(record)
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        tables.console().print(tables.tables(record, document))
    for code, text in record.messages.items():
        print(f"loadtest: {code}, as first said: {one_line(text)}", file=sys.stderr)
    if folder is not None:
        try:
            written = outputs.write(record, document, folder)
        except ResultsError as error:
            raise Fault(str(error), NO) from error
        print(f"wrote {', '.join(str(place) for place in written.values())}", file=sys.stderr)
        if report.FILE not in written:
            print(
                "loadtest: no report.html, as matplotlib is not installed: pip install 'scrutin[report]'",
                file=sys.stderr,
            )
    return document


def end(record: RunRecord, document: Json) -> None:
    """With the exit code that the run deserves. Raises Fault or typer.Exit."""
    if record.stopped.startswith(STOP):
        raise typer.Exit(INTERRUPTED)
    if record.stopped:
        raise Fault(f"{record.target}: {record.stopped}; what was measured until then is kept", NO)
    if not document["valid"]:
        raise typer.Exit(INVALID)
    if results.missed(document):
        raise typer.Exit(MISSED)
