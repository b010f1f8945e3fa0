"""Spans made of a journey, whatever happened in it: children lie within their parent."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from serving.journey import Journey, Operation
from serving.records import MemberRun, Outcome
from serving.settings import Settings, SettingsError
from serving.trace import root
from serving.tracing import Tracer, traces_url


@dataclass
class Hold:
    started: float
    ended: float


@pytest.fixture(scope="module")
def tracer():
    made = Tracer(Settings(repositories=("a",)), "http://127.0.0.1:9")
    yield made
    made.close()


instants = st.one_of(st.just(0.0), st.floats(100, 200))


@given(
    st.tuples(st.floats(100, 200), st.floats(100, 200)).map(sorted),
    instants,
    instants,
    st.tuples(instants, st.floats(0, 50)),
    st.lists(st.one_of(st.none(), st.builds(Hold, instants, instants)), max_size=5),
)
def test_whatever_happened_lies_within_the_request(tracer, span, admitted, started, voted, holds) -> None:
    journey = Journey(Operation("grpc", "s/M"), span[0], span=root(), ended=span[1])
    journey.admitted, journey.started, (journey.voted, journey.vote_seconds) = admitted, started, voted
    journey.runs = [MemberRun(str(place), Outcome.OK, "cpu", hold=hold) for place, hold in enumerate(holds)]
    request, *children = tracer._spans(journey)

    assert (request.kind, request.parent, request.context.trace_id) == (
        SpanKind.SERVER,
        None,
        int(journey.span.trace_id, 16),
    )
    assert request.end_time - request.start_time == pytest.approx((span[1] - span[0]) * 1e9, abs=2)
    for child in children:
        assert request.start_time <= child.start_time <= child.end_time <= request.end_time
        assert child.parent == request.context
    assert {child.name for child in children} >= {"admit"}
    assert {child.name for child in children if child.name.startswith("member")} == {
        f"member {place}" for place, hold in enumerate(holds) if hold and span[0] <= hold.started < span[1]
    }


@pytest.mark.parametrize(
    ("ended", "seconds", "outcome", "fault"),
    [(100.5, 0.4, "failed", "no memory"), (102.0, 1.9, "late", None), (100.5, 0.0, "late", None)],
    ids=["before", "after", "between two of its pieces"],
)
def test_what_became_of_a_run_after_the_answer_is_not_told(
    tracer, ended: float, seconds: float, outcome: str, fault: str
) -> None:
    journey = Journey(Operation("grpc", "s/M"), 100.0, span=root(), ended=101.0)
    hold = Hold(100.1, ended)
    journey.runs = [MemberRun("m", Outcome.FAILED, "cpu", seconds=seconds, fault="no memory", hold=hold)]
    (run,) = [span for span in tracer._spans(journey) if span.name == "member m"]

    assert (run.attributes["ensemble.outcome"], run.status.description) == (outcome, fault)


def test_all_spans_of_a_trace_have_its_callers_tracestate(tracer) -> None:
    parent = root()._replace(state="a=1,b=2")
    journey = Journey(Operation("grpc", "s/M"), 100.0, parent=parent, span=parent.child(), ended=101.0)
    request, *children = tracer._spans(journey)

    assert request.parent.trace_state.to_header() == "a=1,b=2"
    assert {span.context.trace_state.to_header() for span in (request, *children)} == {"a=1,b=2"}


def test_a_password_in_the_url_is_told_nowhere() -> None:
    with pytest.raises(
        SettingsError, match="^otlp_endpoint: found '…@host:port', expected a URL such as http://[a-z]+:4318$"
    ):
        traces_url("http://user:secret@host:port")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("http://user:secret@[::1]:4318", "http://user:secret@[::1]:4318/v1/traces"),
        ("http://vendor/otlp/v1/traces", "http://vendor/otlp/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_has_the_standard_one(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url
