"""The files of a run: `results.json`, `results.csv`, `latency.hlog` and `report.html`."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensembles import atomic
from loadtest import hdr, report, results
from loadtest.histogram import Histogram
from loadtest.records import Json, RunRecord
from loadtest.results import ResultsError

CSV, HLOG = "results.csv", "latency.hlog"
LEFT_OUT = frozenset({"record", "slos", "errors", "failure_seconds"})


def write(run: RunRecord, document: Json, folder: Path) -> dict[str, Path]:
    """All files into a folder, which is made if need be; returns their places by name.

    Without matplotlib, an extra, there is no report.html, and it is not among the places. Raises ResultsError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {results.FILE: results.write(document, folder)}
        found |= {
            CSV: _write(folder / CSV, table(document)),
            HLOG: _write(folder / HLOG, hdr.log(_histograms(run), run.started_at)),
        }
        try:
            report.check_drawable()
        except report.ReportError:
            return found
        return {**found, report.FILE: _write(folder / report.FILE, report.page(run, document))}
    except OSError as error:
        place = error.filename or folder
        raise ResultsError(f"{place}: found {error.strerror or error}, expected a folder to write to") from error


def _write(path: Path, content: str) -> Path:
    atomic.write(path, content.encode())
    return path


def table(document: Json) -> str:
    """A row for each policy, a column for each number; nested keys are joined with a dot."""
    rows = [dict(_flat(arm)) for arm in document["arms"]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(arm: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in arm.items():
        if name in LEFT_OUT:
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value
    if "policy" in arm:
        yield "errors", sum(arm["errors"].values())


def _histograms(run: RunRecord) -> Iterator[tuple[str, float, float, Histogram]]:
    """Of each policy: latency as reported, and service time."""
    for arm in run.arms:
        yield arm.policy, 0.0, run.seconds, arm.delays
        yield f"{arm.policy}.service", 0.0, run.seconds, arm.service
