"""Members that fail leave the rotation and come back; readiness follows the quorum, liveness does not."""

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scrutin.v1 import ensemble_pb2 as pb
from serving.rotation import FAULTS, FIRST_PAUSE, LONGEST_PAUSE, Rotation


def test_it_takes_faults_in_a_row_to_leave() -> None:
    rotation = Rotation()
    for _ in range(FAULTS - 1):
        assert not rotation.failed(0.0)
    assert not rotation.answered()
    for _ in range(FAULTS - 1):
        assert not rotation.failed(1.0)
    assert rotation.present

    assert rotation.failed(2.0)
    assert (rotation.present, rotation.tried_at) == (False, 2.0), "and is tried at once"


def test_pauses_grow_to_a_limit_and_begin_anew_once_it_is_back() -> None:
    rotation, now = Rotation(), 0.0
    for _ in range(FAULTS):
        rotation.failed(now)
    pauses = []
    for _ in range(9):
        assert rotation.tried_at is not None
        pauses.append(rotation.tried_at - now)
        now = rotation.tried_at
        assert not rotation.failed(now), "it has left already"
    assert pauses == [0, *(min(FIRST_PAUSE * 2**step, LONGEST_PAUSE) for step in range(8))]

    assert rotation.answered()
    for _ in range(FAULTS + 1):
        rotation.failed(now)
    assert rotation.tried_at == now + FIRST_PAUSE


@pytest.fixture(scope="module")
def faulty(launch_scripted, write_tiny):
    """Two of three members fail for a while, and come back."""
    script = {"e": {"b": [*[{"fault": "no"}] * (FAULTS + 1), {}], "c": [*[{"fault": "no"}] * (FAULTS + 1), {}]}}
    with launch_scripted(script, write_tiny("e", ["a", "b", "c"], vote={"quorum": 2})) as server:
        yield server


def test_readiness_follows_the_quorum_and_liveness_does_not(faulty):
    data = np.float32([1, 0, 0, 0]).tobytes()
    request = pb.PredictRequest(ensemble="e", tensor=pb.Tensor(datatype="FP32", shape=[1, 4], data=data))
    with faulty.stub() as stub, grpc.insecure_channel(faulty.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def serving() -> bool:
            status = health.Check(health_pb2.HealthCheckRequest(service="e")).status
            return status == health_pb2.HealthCheckResponse.SERVING

        for _ in range(FAULTS):
            assert serving()
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(request)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "1 of 3 members voted, the quorum is 2; failed: b, c"

        faulty.until(lambda: not serving())
        assert faulty.get("/v2/health/ready").status == 503
        assert faulty.get("/v2/models/e/ready").status == 503
        assert faulty.get("/v2/health/live").status == 200
        asked = "ensemble_member_in_rotation"
        assert [faulty.metric(asked, ensemble="e", member=name) for name in "abc"] == [1, 0, 0]
        assert faulty.metric("ensemble_quorum", ensemble="e") == 2
        assert "member e.b left the rotation after 3 faults in a row" in faulty.log

        faulty.until(serving, 20)
        assert stub.Predict(request).label == ["no"]
        assert faulty.get("/v2/health/ready").status == 200
        assert "member e.b is back in rotation" in faulty.log
