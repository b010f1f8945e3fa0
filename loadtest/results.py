"""`results.json`: a run as plain values, and back. Its JSON schema is `results.schema.json` beside this file.

`document(run)` is what people and scripts read: summaries with their intervals. Under `record`, each arm keeps its histograms and
counts themselves, so that `parse(document(run)) == run` and the files of shards merge exactly. The records (ArmRecord, RunRecord,
Plan, Generator …) are in `loadtest.records`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ensembles import atomic
from ensembles.estimates import Estimate
from ensembles.wording import one_line
from loadtest import slo, validity
from loadtest.histogram import Histogram
from loadtest.judging import judged, tightest
from loadtest.packing import packed_arm, packed_run, unpacked_run
from loadtest.records import ArmRecord, Json, RunRecord
from loadtest.slo import Outcome, Slo, SloError
from loadtest.standing import QUANTILES, Standing, standing
from loadtest.verdict import verdict

__all__ = ["ArmRecord", "Json", "ResultsError", "RunRecord", "SloError", "document", "missed", "parse", "read", "write"]

SCHEMA = 1
MOST_SHARDS = 100_000
FILE = "results.json"
SCHEMA_FILE = Path(__file__).with_name("results.schema.json")

TYPED = TypeAdapter(
    list[RunRecord], config=ConfigDict(strict=True, arbitrary_types_allowed=True, revalidate_instances="always")
)
"""Checks the types of all that a record holds; a list, as a dataclass alone would have no configuration."""


class ResultsError(ValueError):
    """The file is no result of a load test, or cannot be written. One line."""


def document(run: RunRecord) -> Json:
    """The content of `results.json`. Raises SloError for an objective that does not parse."""
    slos = slo.parse_all(run.slos)
    standings = [standing(run, arm, tightest(slos)) for arm in run.arms]
    because = validity.reasons(run)
    return {
        "schema": SCHEMA,
        **packed_run(run),
        "seconds": run.seconds,
        "valid": not because,
        "invalid_because": because,
        "verdict": verdict(run, standings),
        "arms": [_arm(run, arm, found, slos) for arm, found in zip(run.arms, standings, strict=True)],
    }


def _arm(run: RunRecord, arm: ArmRecord, found: Standing, slos: tuple[Slo, ...]) -> Json:
    return {
        "policy": arm.policy,
        "requests": arm.requests,
        "answered": arm.latency.count,
        "rows": arm.rows,
        "errors": arm.errors,
        "partial": arm.partial,
        "degraded": arm.degraded,
        "censored": arm.censored.count,
        "latency_seconds": quantiles(arm.delays),
        "latency_intervals_seconds": {name: each.as_json() for name, each in found.latency.items()},
        "service_seconds": quantiles(arm.service),
        "lateness_seconds": quantiles(arm.lateness),
        "failure_seconds": {code: quantiles(failures) for code, failures in sorted(arm.failures.items())},
        "rows_per_second": _value(found.rows_per_second),
        "goodput_per_second": _value(found.goodput_per_second),
        "requests_per_second": _json(found.requests_per_second),
        "error_rate": _json(found.error_rate),
        "partial_rate": _json(found.partial_rate),
        "accuracy": _json(found.accuracy),
        "agreement_with_full": _json(found.agreement),
        "device_seconds_per_1000": _json(found.device_seconds_per_1000),
        "cost_usd_per_1000": _json(found.cost_usd_per_1000),
        "cost_usd_per_1000_right": _json(found.cost_usd_per_1000_right),
        "slos": [_outcome(each) for each in judged(run, arm, slos)],
        "record": packed_arm(arm),
    }


def quantiles(histogram: Histogram) -> Json:
    """`p50` to `p99_9`, `max` and `mean`, in seconds; null where nothing was recorded."""
    levels = {**QUANTILES, "max": 1.0}
    found = {name: histogram.quantile(q) for name, q in levels.items()} | {"mean": histogram.mean}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


def _json(estimate: Estimate | None) -> Json | None:
    return dict(estimate.as_json()) if estimate else None


def _outcome(of: Outcome) -> Json:
    return {"slo": of.slo.text, "met": of.met, "sure": of.sure, "found": _json(of.found)}


def missed(content: Mapping[str, Any]) -> list[str]:
    """Of a document: one line for each objective that a policy missed, for exit code 3."""
    return [
        f"{arm['policy']}: {each['slo']} missed" for arm in content["arms"] for each in arm["slos"] if not each["met"]
    ]


def parse(content: Json) -> RunRecord:
    """The run that a document came from. Raises ResultsError."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = one_line(content.get("schema", "none")) if isinstance(content, dict) else type(content).__name__
        raise ResultsError(f"found schema {found}, expected {SCHEMA}: a results.json of loadtest")
    try:
        if not 1 <= content["of_shards"] <= MOST_SHARDS:
            raise ValueError(f"{content['of_shards']} shards")
        run = TYPED.validate_python([unpacked_run(content)])[0]
        with np.errstate(all="ignore"):
            document(run)  # counts that do not fit together show here, and not in the middle of a report
    except Exception as error:  # a file may be wrong in any way
        told = error.errors()[0] if isinstance(error, ValidationError) else error
        said = (
            f"{told['msg']} at {'.'.join(map(str, told['loc']))}"
            if isinstance(told, dict)
            else f"{type(error).__name__} {told}"
        )
        raise ResultsError(f"found {one_line(said)}, expected what `loadtest run` writes") from error
    return run


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")


def read(path: Path) -> RunRecord:
    """From a file, or from `results.json` in a folder. Raises ResultsError."""
    file = path / FILE if path.is_dir() else path
    try:
        return parse(json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant))
    except ResultsError as error:
        raise ResultsError(f"{file}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ResultsError(f"{file}: found {said}, expected the results.json of a load test") from error


def write(content: Json, folder: Path) -> Path:
    """Put a document into a folder that is there as `results.json`, whole or not at all; returns its path. Raises ResultsError."""
    try:
        text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"
        atomic.write(folder / FILE, text.encode())
    except OSError as error:
        raise ResultsError(f"{folder / FILE}: found {error.strerror or error}, expected a place to write") from error
    return folder / FILE
