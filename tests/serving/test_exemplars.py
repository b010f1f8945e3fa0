"""From a histogram to the trace of a request that is in it, through what is scraped."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serving.journey import Journey, Operation
from serving.ledger import Ledger
from serving.records import MemberRun, Outcome
from serving.telemetry import Telemetry
from serving.trace import SpanContext

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-b7ad6b7169203331-{flags}" for flags in ("01", "00"))
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PER_REQUEST = {"ensemble_request_seconds", "ensemble_queue_seconds", "ensemble_vote_seconds", "ensemble_member_seconds"}


def scraped(server, accept: str = OPENMETRICS):
    return server.request("GET", "/metrics", headers={"Accept": accept}, address=server.metrics)


def exemplars(text: str) -> dict[str, set[str]]:
    """The traces that each histogram tells of."""
    found: dict[str, set[str]] = {}
    for family in openmetrics.text_string_to_metric_families(text):
        low = 0.0
        for sample in family.samples:
            high = float(sample.labels.get("le", "inf"))
            if sample.exemplar:
                assert low < sample.exemplar.value <= high
                assert abs(float(sample.exemplar.timestamp) - time.time()) < 300
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
            low = high if high < float("inf") else 0.0
    return found


def ask(server, samples, traceparent: str) -> None:
    body = {"instances": samples[0][:1].tolist()}
    assert server.post("/v1/models/digits:predict", body, {"traceparent": traceparent}).status == 200


def test_sampled_requests_alone_are_told_in_openmetrics_alone(launch, digits, samples) -> None:
    """Also where no traces are made here: the caller's trace is one."""
    with launch(digits.path) as server:
        ask(server, samples, UNSAMPLED)
        assert exemplars(scraped(server).body.decode()) == {}

        ask(server, samples, SAMPLED)
        reply = scraped(server)
        plain = scraped(server, "text/plain;version=0.0.4")

        assert reply.headers["content-type"] == OPENMETRICS
        assert exemplars(reply.body.decode()) == dict.fromkeys(PER_REQUEST, {TRACE})
        assert plain.headers["content-type"].startswith("text/plain; version=")
        assert TRACE not in plain.body.decode()
        assert names(openmetrics.text_string_to_metric_families(reply.body.decode())) == names(
            text_string_to_metric_families(plain.body.decode())
        )
        metric = "ensemble_request_seconds_bucket"
        found = in_prometheus(server, f"{metric}{{ensemble='digits'}}")
        assert found == {(metric, TRACE)}


def names(families) -> set[str]:
    return {sample.name for family in families for sample in family.samples}


@pytest.mark.parametrize("code", ["OK", "UNAVAILABLE"])
def test_a_bucket_tells_the_last_sampled_observation_of_its_own(code: str) -> None:
    telemetry = Telemetry(Ledger(1.0))
    for trace, seconds in (("a" * 32, 0.003), ("b" * 32, 0.0031), ("c" * 32, 0.3)):
        journey = Journey(Operation("grpc", "s/M"), 1.0, span=SpanContext(trace, "1" * 16, sampled=True))
        journey.ensemble, journey.policy, journey.code, journey.ended = "e", "full", code, 1.0 + seconds
        journey.started, journey.vote_seconds = 1.001, 0.0001
        journey.runs.append(MemberRun("m", Outcome.OK, "cpu"))
        telemetry.exemplify(journey)
    found = exemplars(telemetry.exposition(exemplars=True).decode())

    assert found["ensemble_request_seconds"] == {"b" * 32, "c" * 32}
    assert "ensemble_member_seconds" not in found, "its run is not over"
    assert ("ensemble_vote_seconds" in found) == (code == "OK")


def test_a_run_whose_length_is_not_known_yet_is_no_exemplar() -> None:
    """The device is free a moment before the run's seconds are written down."""
    over = SimpleNamespace(started=1.0, ended=1.2)
    runs = [MemberRun("new", Outcome.OK, "cpu", hold=over), MemberRun("old", Outcome.OK, "cpu", seconds=0.2, hold=over)]
    journey = Journey(Operation("grpc", "s/M"), 1.0, span=SpanContext(TRACE, "1" * 16, sampled=True), runs=runs)
    journey.ensemble, journey.policy, journey.started, journey.ended = "e", "full", 1.0, 1.3
    telemetry = Telemetry(Ledger(1.0))
    telemetry.exemplify(journey)
    series = openmetrics.text_string_to_metric_families(telemetry.exposition(exemplars=True).decode())

    assert {
        sample.labels["member"]
        for family in series
        for sample in family.samples
        if family.name == "ensemble_member_seconds" and sample.exemplar
    } == {"old"}


def in_prometheus(server, query: str) -> set[tuple[str, str]]:
    """Metrics and traces of the exemplars that a real Prometheus answers with, once it has some."""
    if shutil.which("prometheus") is None and "CI" not in os.environ:
        pytest.skip("prometheus is not installed; on Debian it is a package")
    folder = server.err.parent
    jobs = [{"job_name": "scrutin", "scrape_interval": "1s", "static_configs": [{"targets": [server.metrics]}]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["prometheus", "--enable-feature=exemplar-storage", f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}/api/v1/query_exemplars?{urllib.parse.urlencode({'query': query, 'start': 0, 'end': 4e9})}"
    found: set[tuple[str, str]] = set()

    def answered() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            for series in json.load(answer)["data"]:
                found.update(
                    (series["seriesLabels"]["__name__"], each["labels"]["trace_id"]) for each in series["exemplars"]
                )
        return bool(found)

    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server.until(answered, seconds=60)
        finally:
            process.terminate()
            process.wait(60)
    return found
