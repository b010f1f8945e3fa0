"""Records as plain values and back, so that files of shards merge to what one process would have recorded. Pure."""

import math
from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from loadtest import hdr
from loadtest.histogram import Histogram
from loadtest.records import Answers, ArmRecord, Generator, Json, Plan, RunRecord, Slot, Spending

HISTOGRAMS = ("latency", "service", "lateness", "censored")


def packed_histogram(histogram: Histogram) -> Json:
    """HdrHistogram's V2, and the exact ends and sum beside it, in ns."""
    return {
        "hdr": hdr.encode(histogram),
        "smallest_ns": histogram.smallest,
        "largest_ns": histogram.largest,
        "sum_ns": histogram.total,
    }


def unpacked_histogram(content: Json) -> Histogram:
    return hdr.decode(content["hdr"], (content["smallest_ns"], content["largest_ns"], content["sum_ns"]))


def packed_arm(arm: ArmRecord) -> Json:
    """All of an arm that a summary does not hold."""
    return {
        **{name: packed_histogram(getattr(arm, name)) for name in HISTOGRAMS},
        "failures": {code: packed_histogram(failures) for code, failures in sorted(arm.failures.items())},
        "slot_seconds": arm.slot_seconds,
        "spending": asdict(arm.spending),
        "answers": [[row, label, count] for (row, label), count in sorted(arm.answers.counts.items())],
        "timeline": [_packed_slot(slot) for slot in arm.timeline],
        "first_sent": arm.first_sent if math.isfinite(arm.first_sent) else None,
        "last_done": arm.last_done,
    }


def _packed_slot(slot: Slot) -> Json:
    counts = {name: getattr(slot, name) for name in ("due", "sent", "done", "errors")}
    return {**counts, "latency": packed_histogram(slot.latency), "spending": asdict(slot.spending)}


def unpacked_arm(content: Json) -> ArmRecord:
    """From an arm of a document."""
    record = content["record"]
    return ArmRecord(
        policy=content["policy"],
        requests=content["requests"],
        rows=content["rows"],
        partial=content["partial"],
        degraded=content["degraded"],
        failures={code: unpacked_histogram(failures) for code, failures in record["failures"].items()},
        slot_seconds=record["slot_seconds"],
        spending=Spending(**record["spending"]),
        answers=Answers(Counter({(row, label): count for row, label, count in record["answers"]})),
        timeline=[_unpacked_slot(slot) for slot in record["timeline"]],
        first_sent=math.inf if record["first_sent"] is None else record["first_sent"],
        last_done=record["last_done"],
        **{name: unpacked_histogram(record[name]) for name in HISTOGRAMS},
    )


def _unpacked_slot(content: Json) -> Slot:
    return Slot(
        content["due"],
        content["sent"],
        content["done"],
        content["errors"],
        unpacked_histogram(content["latency"]),
        Spending(**content["spending"]),
    )


PLAIN = (
    "target", "seed", "schedule_sha256", "started_at", "ended_at", "labels", "data", "slos",
    "shards", "of_shards", "stopped", "messages", "server", "ensemble",
)  # fmt: skip
"""The fields of a run that are plain values already."""


def packed_run(run: RunRecord) -> Json:
    """All of a run but its arms."""
    plain: dict[str, Any] = {name: getattr(run, name) for name in PLAIN}
    truth = {"rows": sorted(run.truth), "classes": [run.truth[row] for row in sorted(run.truth)]}
    return {**plain, "plan": asdict(run.plan), "generator": asdict(run.generator), "truth": truth}


def unpacked_run(content: Json) -> RunRecord:
    truth = dict(zip(content["truth"]["rows"], content["truth"]["classes"], strict=True))
    return RunRecord(
        **{name: content[name] for name in PLAIN},
        plan=Plan(**_known(Plan, content["plan"])),
        generator=Generator(**_known(Generator, content["generator"])),
        truth=truth,
        arms=[unpacked_arm(arm) for arm in content["arms"]],
    )


def _known(kind: type[Any], content: Json) -> Json:
    """More keys are welcome in a document."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
