"""More than the members can do: policies step down and back up, and what cannot be answered in time is refused at once."""

import time

import grpc
import numpy as np
import pytest

from scrutin.v1 import ensemble_pb2 as pb

LADDER = ["full", "early_exit", "member:a"]
RUN_SECONDS = 0.02


def request(ensemble: str, **more: object) -> pb.PredictRequest:
    data = np.float32([1, 0, 0, 0]).tobytes()
    return pb.PredictRequest(ensemble=ensemble, tensor=pb.Tensor(datatype="FP32", shape=[1, 4], data=data), **more)


@pytest.fixture(scope="module")
def pressed(launch_scripted, write_tiny):
    """Each run takes a while, a batch is one row, and nobody is refused for the length of the queue."""
    limits = {"max_batch_size": 1, "timeout_ms": 20_000, "brownout_ms": 100}
    policies = {"early_exit": {"stages": [["a", "b"], ["c"]]}, "ladder": LADDER}
    repositories = [
        write_tiny("stepping", ["a", "b", "c"], limits=limits, policies=policies),
        write_tiny("refusing", ["a"], limits=limits),
    ]
    script = {
        "stepping": {member: [{"delay": RUN_SECONDS}] for member in "abc"},
        "refusing": {"a": [{"delay": RUN_SECONDS}]},
    }
    with launch_scripted(script, *repositories) as server:
        yield server


def level(server) -> float:
    return server.metric("ensemble_brownout_level", ensemble="stepping")


def test_under_pressure_policies_step_down_say_so_and_step_up_again(pressed):
    with pressed.stub() as stub:
        calm = stub.Predict(request("stepping"))
        assert (calm.policy, calm.requested_policy, calm.brownout_level) == ("full", "full", 0)

        pending, answers = set(), []
        for number in range(120):
            pending.add(stub.Predict.future(request("stepping", id=str(number))))
            time.sleep(0.01)
        seen = level(pressed)
        answers = [call.result(30) for call in pending]
        reached = {(answer.policy, answer.requested_policy, answer.brownout_level) for answer in answers}
        assert reached <= {(policy, "full", step) for step, policy in enumerate(LADDER)}
        assert ("member:a", "full", 2) in reached
        assert seen > 0

        raw = pressed.post("/v1/models/stepping:predict", {"instances": [[1, 0, 0, 0]], "policy": "member:a"}).json
        assert (raw["policy"], raw["requested_policy"], raw["brownout_level"]) == ("member:a", "member:a", 0)

        until = time.monotonic() + 60
        while level(pressed) and time.monotonic() < until:
            stub.Predict(request("stepping"))
            time.sleep(0.2)
        calm = stub.Predict(request("stepping"))
        assert (calm.policy, calm.brownout_level) == ("full", 0)


def test_what_cannot_be_answered_in_time_is_refused_at_once_and_told_when_to_come_back(pressed):
    with pressed.stub() as stub:
        waiting = [stub.Predict.future(request("refusing")) for _ in range(150)]
        pressed.until(
            lambda: pressed.metric("ensemble_batch_rows_count", ensemble="refusing") > 20
        )  # it knows its pace
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request("refusing", timeout_microseconds=100_000))
        reply = pressed.post(
            "/v2/models/refusing/infer",
            {
                "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 0, 0, 0]}],
                "parameters": {"timeout": 100_000},
            },
        )
        assert sum(call.done() for call in waiting) < 150
        assert [call.result(30).label[0] for call in waiting] == ["no"] * 150

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the request has" in refused.value.details()
    assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert (reply.status, int(reply.headers["Retry-After"]) > 0) == (429, True)
    assert pressed.metric("ensemble_shed_total", ensemble="refusing", reason="too_late") == 2


def test_a_connection_outlives_many_requests_whose_deadline_passes(pressed):
    """Envoy takes resets in great number for an attack; those of a client whose server is overloaded are none."""
    with pressed.stub() as stub:
        codes = set()
        for _ in range(8):
            calls = [stub.Predict.future(request("refusing"), timeout=0.005) for _ in range(100)]
            codes |= {call.code().name for call in calls}
        assert codes <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "OK"}
        assert stub.Predict(request("refusing"), timeout=30).label == ["no"]
