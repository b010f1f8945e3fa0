"""Lines of the log: JSON for machines, text for people; who fails by our doing is told, but not a thousand times a second."""

import json
import logging
import sys
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.journey import Caller, Journey, Operation
from serving.logs import JsonFormatter, TextFormatter, about
from serving.observer import MOST_LINES, Observer, Room
from serving.trace import SpanContext

PREDICT = Operation("grpc", "scrutin.v1.EnsembleService/Predict")
SPAN = SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False)


def line(formatter: logging.Formatter, message: str, exc_info=None, **fields: object) -> str:
    record = logging.LogRecord("serving", logging.WARNING, __file__, 1, "%s", (message,), exc_info)
    record.__dict__.update(about(**fields))
    return formatter.format(record)


@given(st.text(), st.text())
def test_json_is_one_line_whatever_is_said(message: str, request_id: str) -> None:
    written = line(JsonFormatter(), message, request_id=request_id, code="OK", rows=None)
    read = json.loads(written)

    assert len(written.splitlines()) == 1
    assert (read["level"], read["logger"], read["message"], read["code"]) == ("warning", "serving", message, "OK")
    assert read.get("request_id", "") == request_id
    assert "rows" not in read


def test_the_time_is_that_of_rfc_3339_in_utc() -> None:
    time = datetime.fromisoformat(json.loads(line(JsonFormatter(), "now"))["time"])

    assert time.utcoffset() == timedelta(0)


def test_a_traceback_is_part_of_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        written = line(JsonFormatter(), "it broke", sys.exc_info())

    assert len(written.splitlines()) == 1
    assert json.loads(written)["exception"].endswith("ValueError: two\nlines")


@given(st.text(min_size=1))
def test_a_caller_cannot_make_a_line_of_text_by_the_name_of_a_request(request_id: str) -> None:
    written = line(TextFormatter(), "done", request_id=request_id, code="OK")

    assert len(written.splitlines()) == 1
    assert written == f"WARNING serving: done request_id={json.dumps(request_id)}"


def test_only_so_many_lines_a_second_and_then_how_many_were_left_out() -> None:
    now = 5.0
    room = Room(lambda: now)

    assert [room.take() for _ in range(MOST_LINES + 3)] == [0] * MOST_LINES + [None] * 3
    now = 6.0
    assert [room.take(), room.take()] == [3, 0]


def journey(status: int, code: str, why: str = "") -> Journey:
    return Journey(PREDICT, 1.0, "mine", None, SPAN, "digits", "full", code, status, why, ended=1.25)


@pytest.mark.parametrize(
    ("status", "code", "level"),
    [(500, "INTERNAL", "ERROR"), (503, "UNAVAILABLE", "WARNING"), (504, "DEADLINE_EXCEEDED", "WARNING")],
)
def test_failures_by_our_own_doing_are_told(caplog, status: int, code: str, level: str) -> None:
    caplog.set_level(logging.INFO)
    Observer().ended(journey(status, code, "why"))

    (record,) = caplog.records
    assert (record.levelname, record.message) == (level, f"digits: {code} after 0.250000 s: why")
    assert record.about == {
        "request_id": "mine", "trace_id": SPAN.trace_id, "span_id": SPAN.span_id, "ensemble": "digits", "policy": "full",
        "protocol": "grpc", "operation": PREDICT.name, "code": code, "seconds": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [(200, "OK"), (400, "INVALID_ARGUMENT"), (429, "RESOURCE_EXHAUSTED")])
def test_others_are_told_only_where_one_asks_for_all(caplog, status: int, code: str) -> None:
    caplog.set_level(logging.INFO)
    Observer().ended(journey(status, code))
    assert caplog.records == []

    Observer(access_log=True).ended(journey(status, code))
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_bug_is_told_with_its_traceback_however_many_there_are(caplog) -> None:
    observer = Observer()
    for _ in range(MOST_LINES + 5):
        observer.ended(journey(500, "INTERNAL", "this is a bug"), ZeroDivisionError())

    assert len(caplog.records) == MOST_LINES + 5
    assert all(record.exc_info for record in caplog.records)


def test_nobody_follows_a_request_that_nobody_wants_to_hear_of() -> None:
    assert Observer().follow(PREDICT, None, 0.0) is None
    assert Observer().follow(PREDICT, Caller(), 0.0) is None
    assert Observer().follow(PREDICT, Caller("mine", SPAN), 0.0) is None
    assert Observer(access_log=True).follow(PREDICT, None, 0.0).span is None
    assert Observer(access_log=True).follow(PREDICT, Caller("mine"), 0.0).request_id == "mine"


@pytest.mark.parametrize("sampled", [False, True])
def test_without_a_tracer_the_callers_own_span_is_what_the_log_tells(sampled: bool) -> None:
    parent = SPAN._replace(sampled=sampled)

    assert Observer(access_log=True).follow(PREDICT, Caller(parent=parent), 0.0).span == parent
