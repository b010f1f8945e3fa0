"""How long connections last: callers come back after a while, and no request is lost by it."""

import http.client
import queue
import time

import grpc
import psutil
import pytest

from scrutin.v1 import ensemble_pb2 as pb
from scrutin.v1 import ensemble_pb2_grpc

AGE_SECONDS = 1.0
ASKED_SECONDS = 7.5
"""Longer than the age and the 5 s that the door then waits for streams that the caller may have begun meanwhile."""


@pytest.fixture(scope="module")
def short_lived(launch, digits, tmp_path_factory):
    """A server that wants its callers back every second."""
    file = tmp_path_factory.mktemp("settings") / "settings.yaml"
    file.write_text(f"max_connection_age_seconds: {AGE_SECONDS}\n")
    with launch(digits.path, config=file) as server:
        yield server


def callers(server) -> set[int]:
    """The ports from which callers of gRPC are connected."""
    port = int(server.grpc.rsplit(":", 1)[1])
    connections = psutil.Process(server.pid).net_connections("tcp")
    return {each.raddr.port for each in connections if each.laddr.port == port and each.raddr}


def row(samples, number: int) -> pb.PredictRequest:
    rows = samples[0][number : number + 1]
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(ensemble="digits", tensor=tensor, id=str(number))


def test_grpc_callers_come_back_and_no_request_is_lost(short_lived, samples) -> None:
    """One channel asks all the time, and has a stream open from before the first connection's end to behind it."""
    seen: set[int] = set()
    asked: queue.SimpleQueue = queue.SimpleQueue()
    with grpc.insecure_channel(short_lived.grpc) as channel:
        stub = ensemble_pb2_grpc.EnsembleServiceStub(channel)
        stream = stub.PredictStream(iter(asked.get, None), timeout=60)
        asked.put(row(samples, 0))
        assert next(stream).id == "0"
        [first] = callers(short_lived)

        end = time.monotonic() + ASKED_SECONDS
        while time.monotonic() < end:
            assert stub.Predict(row(samples, 1), timeout=10).label
            seen |= callers(short_lived)
            time.sleep(0.02)
        asked.put(row(samples, 2))
        assert next(stream).id == "2"
        assert first in callers(short_lived), "the stream was cut and begun again"
        asked.put(None)
        assert list(stream) == []

    assert len(seen) >= 4


def test_http_callers_are_told_with_an_answer_that_this_was_the_last_one(short_lived) -> None:
    host, port = short_lived.http.rsplit(":", 1)
    caller = http.client.HTTPConnection(host, int(port), timeout=30)
    caller.request("GET", "/v2/health/live")
    early = caller.getresponse()
    early.read()
    time.sleep(AGE_SECONDS * 1.2)
    caller.request("GET", "/v2/health/live")
    late = caller.getresponse()
    late.read()
    caller.close()

    assert (early.status, early.getheader("connection")) == (200, None)
    assert (late.status, late.getheader("connection")) == (200, "close")


def test_connections_last_as_long_as_callers_like_unless_told_otherwise(digits) -> None:
    from serving.door import configuration
    from serving.settings import Settings

    [listener] = configuration(Settings(repositories=(digits.path,)), "app")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]

    assert "max_connection_duration" not in manager["common_http_protocol_options"]


def test_who_is_about_to_end_asks_callers_to_go_elsewhere(launch, digits, samples):
    """They need not look at the health of the server for that."""
    with launch(digits.path, drain_delay_seconds=3) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = ensemble_pb2_grpc.EnsembleServiceStub(channel)
        assert stub.Predict(row(samples, 0)).label
        before = callers(server)
        server.signal()
        server.until(lambda: server.get("/v2/health/live").headers["connection"] == "close")

        answers = [stub.Predict(row(samples, number)).label for number in (1, 2)]

        assert all(answers)
        assert not callers(server) & before
